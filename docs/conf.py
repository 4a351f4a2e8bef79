"""How Sphinx makes the documentation: ``python -m sphinx -W -b html docs OUTPUT``.

The pages are Markdown that can be read as it lies in the repository; Sphinx checks that every link leads to something.
"""

project = "Flux"
author = "Flux maintainers"
copyright = author
extensions = ["myst_parser"]
myst_heading_anchors = 4  # The links of pages to each other's headings are those that a repository's viewer makes.
myst_enable_extensions = ["deflist"]
html_theme = "furo"
html_title = "Flux"
nitpicky = True
