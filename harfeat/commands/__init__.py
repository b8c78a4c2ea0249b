"""The commands of `harfeat`, one file each: parse, call one function, print."""
