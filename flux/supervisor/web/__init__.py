"""The web console: pages at ``/_flux/`` for people, made of what the JSON API answers.

A page comes about in two steps, and only the first one waits. `flux.supervisor.web.gather` asks the console's API the
same questions that a script would ask; a module of pages (`executions`, `execution` ...) turns the documents it has
got into a `flux.supervisor.web.page.Page`, without a socket or a clock, so that each can be tried on hostile documents.
``.json`` behind a page's path gives those documents themselves.

Three things keep what was recorded from becoming more than text. Templates escape everything and
`flux.supervisor.web.html` makes control and bidirectional characters visible, whatever a template forgets; the pages'
scripts build elements and never markup, which the browser is told to insist on (Trusted Types); and nothing that is
not served from here is loaded or run (Content-Security-Policy).
"""
