"""itemic.sid.quantizers: from vectors to codes, one quantizer a file behind the one protocol.

Their public names are those of ``itemic.sid``. Nothing is imported here, so that ``sid.quality`` and the quantizers
that watch it while they learn can import each other's files.
"""
