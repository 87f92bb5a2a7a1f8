"""Each mend that the code can print: what it advises is done, and the next run gets further."""
