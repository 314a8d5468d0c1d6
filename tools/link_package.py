"""Puts the Python package and the libraries of a build into a virtual environment, as an editable install.

Usage: link_package.py BUILD_DIR VENV_DIR
"""

import pathlib
import subprocess
import sys


def main() -> None:
    """Writes a path file for the sources and links the built libraries below the package."""
    build, venv = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    source = pathlib.Path(__file__).resolve().parent.parent / "python"
    site = subprocess.run(
        [venv / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    pathlib.Path(site, "graticule.pth").write_text(f"{source}\n")
    _write_metadata(pathlib.Path(site))
    package = source / "graticule"
    package.mkdir(parents=True, exist_ok=True)
    (package / "lib").mkdir(exist_ok=True)
    for library in (build / "lib").glob("libgraticule*.so"):
        link = package / "lib" / library.name
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    (package / "_build_info.py").write_text((build / "_build_info.py").read_text())


def _write_metadata(site: pathlib.Path) -> None:
    """What pip needs to list the package, and to uninstall it."""
    with (pathlib.Path(__file__).resolve().parent.parent / "CMakeLists.txt").open() as file:
        version = next(line.split("VERSION ")[1].split()[0] for line in file if line.startswith("project("))
    folder = site / f"graticule-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: graticule\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("make\n")
    files = ["graticule.pth", *(f"{folder.name}/{name}" for name in ("METADATA", "INSTALLER", "RECORD"))]
    (folder / "RECORD").write_text("".join(f"{name},,\n" for name in files))


if __name__ == "__main__":
    main()
