"""The bill of materials of a locked environment: `python -m tools.sbom sbom.json` (CycloneDX 1.6)."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import hqc
from tools.pins import locked


def bill() -> Bom:
    """hqc and a component for each pin; a version for some Pythons only says for which."""
    bom = Bom()
    root = Component(name="hqc-compiler", version=hqc.__version__, type=ComponentType.APPLICATION, bom_ref="hqc-compiler")
    bom.metadata.component = root
    components = [
        Component(
            name=pin.name,
            version=pin.version,
            type=ComponentType.LIBRARY,
            purl=PackageURL("pypi", name=pin.name, version=pin.version),
            bom_ref=f"{pin.name}=={pin.version}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in pin.hashes],
            properties=[Property(name="hqc:marker", value=pin.marker)] if pin.marker else [],
        )
        for pin in locked()
    ]
    for component in components:
        bom.components.add(component)
    bom.register_dependency(root, components)
    return bom


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(JsonV1Dot6(bill()).output_as_string(indent=2) + "\n")
