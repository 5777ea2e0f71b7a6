"""Tables, figures and the self-contained page, from the files of the other stages."""
