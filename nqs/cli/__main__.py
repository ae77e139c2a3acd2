"""python -m nqs.cli, the same as the command `nqs`."""

from nqs.cli import main

main()
