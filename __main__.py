"""``python -m hwcompile`` is the `hwcompile` command."""

from .cli import main

if __name__ == "__main__":
    main()
