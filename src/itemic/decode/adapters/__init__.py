"""Other engines that write semantic IDs: transformers' ``generate`` and vLLM, each imported in a module of its own.

``prefix`` finds where rows of written tokens stand in the tree, ``rows`` follows the running batch of a serving engine;
neither knows an engine. Nothing is imported here, for an engine may not be installed.
"""
