"""The commands of `harvib`, one file each: parse, call one function, print."""
