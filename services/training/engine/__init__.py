"""The recurrent layers on a CPU, in compiled code: how it is built, found and called, and when it is used."""
