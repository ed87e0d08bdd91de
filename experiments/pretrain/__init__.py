"""A long training from the shell: resumed by itself, recorded, logged, probed at its end."""
