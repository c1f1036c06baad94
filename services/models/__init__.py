"""Models: names, versions and aliases. The files of a version belong to the job that trained it."""
