"""Run the command line: ``python -m pmemfs``."""

from pmemfs.cli import main

if __name__ == "__main__":
    main(prog_name="pmemfs")
