"""python -m nqs, as torchrun starts it: the command `nqs`."""

from nqs.cli import main

if __name__ == "__main__":
    main()
