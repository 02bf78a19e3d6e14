"""Reads settings.ini, so that everything about the package is written once."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="MIT",
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["tinygpt", "tinygpt.*"]),
    package_data={"tinygpt": ["**/*"]},
    exclude_package_data={"tinygpt": ["**/*.pyc"]},
    install_requires=cfg["requirements"].split(),
    entry_points={"console_scripts": ["tinygpt = tinygpt.cli:main"]},
    extras_require={"dev": cfg["dev_requirements"].split(), "tensorboard": ["tensorboard"], "wandb": ["wandb"]},
    zip_safe=False,
)
