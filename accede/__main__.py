"""`python -m accede` is the same as the installed command."""

from .cli.main import main

if __name__ == "__main__":
    main()
