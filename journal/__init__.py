"""The journal: what happened, to what, by whom, when and why; and how it goes out live."""
