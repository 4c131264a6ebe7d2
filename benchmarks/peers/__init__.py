"""negbench beside other libraries, each in processes of its own, in turns."""
