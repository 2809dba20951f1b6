"""``python -m thermolinalg``."""

from thermolinalg.cli import main

main()
