"""The project that ``flux init`` writes, as a history of twelve commits.

One of the commits plants a bug, so that ``flux why``, ``flux replay`` and ``flux
bug bisect`` have something true to find on the first day. The files are in
``commits/``, a folder for each commit with the whole of every file that it
changes (``.txt`` keeps tools from taking them for Flux's own). A project
without ``--tutorial`` is the same shop just before the bug, without history.
"""
