"""Where guests run: each kind is one file that passes `flux.sandbox.conformance.check_sandbox`."""
