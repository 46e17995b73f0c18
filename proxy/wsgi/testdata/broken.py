"""Modules that can't be imported, by the name that is asked for."""

print("half printed", end="")


def makes_nothing():
    return None


def raises():
    raise LookupError("no database")


def leaves():
    raise SystemExit(0)


number = 5
