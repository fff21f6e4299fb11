"""`python -m deployments.sandbox.gateway`."""

from deployments.sandbox.gateway.app import main

main()
