"""`python -m drone_agent` is `drone-agent`."""

from drone_agent.cli import main

main()
