"""Method files written before `negbench.contrast`, as run folders hold them, still load and compute the same."""

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from negbench.contrast.method import Method
from negbench.contrast.momentum import ema_update_
from negbench.settings.plugins.find import find_method, import_method
from tests.helpers import tiny

WRITTEN = Path(__file__).parent / "old_methods"  # those of revision 5565473


@pytest.mark.parametrize("name", ["adco", "byol", "moco", "simclr"])
def test_a_method_file_of_an_earlier_version_gives_the_same_losses(name: str, tmp_path: Path) -> None:
    copy = tmp_path / f"{name}.py"
    shutil.copy(WRITTEN / f"{name}.py.txt", copy)
    with pytest.warns(DeprecationWarning, match="write `from negbench.contrast import "):
        old = tiny.build(str(copy), tiny.encoder(), 2, **tiny.SMALL.get(name, {}))
    assert losses(old) == losses(tiny.build(name))


def losses(method: Method) -> list[Tensor]:
    return [output.loss.detach() for output in tiny.train(method, 0, 4)]


def test_a_name_that_is_not_in_the_door_is_named_with_its_place(tmp_path: Path) -> None:
    """One that has another name now is named with that, and one that never was is missed as in any module."""
    (tmp_path / "other.py").write_text("from negbench.method import interleaved\nConfig = build = interleaved\n")
    with pytest.warns(DeprecationWarning, match=r"write `from negbench.contrast.passes import interleaved`"):
        import_method(find_method(str(tmp_path / "other.py")))
    (tmp_path / "renamed.py").write_text("from negbench.method import follow\nConfig = build = follow\n")
    with pytest.warns(DeprecationWarning, match=r"method.follow has moved: .*momentum import ema_update_`"):
        assert import_method(find_method(str(tmp_path / "renamed.py"))).build is ema_update_
    (tmp_path / "wrong.py").write_text("from negbench.method import no_such_thing\n")
    with pytest.raises(ValueError, match="cannot be imported: cannot import name 'no_such_thing'"):
        import_method(find_method(str(tmp_path / "wrong.py")))
