"""Tables, figures and the page, from files of the other stages; nothing is measured here."""
