"""The first lines of a Python zygote: its memory is gathered before much of it is allocated.

``python -m flux.sandbox.jail_start PLAN``. `flux.sandbox.jail_main` is what is to be read; it and what it needs
make up a third of the objects that workers share, so it is imported after `flux.sandbox.jail_arenas.gather`.
"""

import importlib
import sys

from flux.sandbox.jail_arenas import gather

if __name__ == "__main__":
    arenas = gather()
    importlib.import_module("flux.sandbox.jail_main").main(sys.argv[1:], arenas)
