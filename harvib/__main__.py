"""`python -m harvib`, which is how torchrun starts it: the same as the command `harvib`."""

from harvib.cli import main

main(prog_name="harvib")
