"""`python -m hqc` is the command `hqc`."""

from hqc.cli import main

if __name__ == "__main__":
    main(prog_name="hqc")
