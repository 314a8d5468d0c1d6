"""python -m graticule: verify, report, plan."""

from graticule.command import main

if __name__ == "__main__":
    raise SystemExit(main())
