from pathlib import Path
from xml.etree import ElementTree as ET

from conformance.report import maps


def test_the_maps_show_every_implementation_of_the_panels(tmp_path: Path) -> None:
    assert maps.main([str(tmp_path)]) == 0
    for name in maps.DRAWN.values():
        texts = list(ET.parse(tmp_path / name).getroot().itertext())
        for convention in ("oneflow", "torch", "limit"):
            assert f'kldiv_xp, convention="{convention}"' in texts
        for start in maps.PANELS[1]:
            assert any(text.startswith(start) for text in texts)
        assert len([text for text in texts if text == "no gradient"]) == (name == maps.DRAWN["target"])
