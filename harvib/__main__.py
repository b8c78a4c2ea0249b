"""`python -m harvib`, which is how torchrun starts it: the same as the command `harvib`."""

from harvib.entry import main

main()
