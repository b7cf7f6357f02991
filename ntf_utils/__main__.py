"""`python -m ntf_utils`: the book's command line."""

from ntf_utils.commands import main

if __name__ == "__main__":
    main()
