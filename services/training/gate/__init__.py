"""The gate: is a retrained model better than the one before, and could that be luck?"""
