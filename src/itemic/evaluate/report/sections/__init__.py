"""The report's sections: each module turns artefacts into a record of words, tables and figures for the template.

Every ``describe_*`` function is pure: no files, no HTML, no random state of its own.
"""
