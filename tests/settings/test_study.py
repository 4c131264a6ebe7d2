"""Layers of settings, the run id, and the sentences that mistakes get."""

import re
from pathlib import Path

import pytest
import yaml

from negbench.runtime.errors import UserError
from negbench.settings.grid import combinations
from negbench.settings.keys import flatten, leaves, parse_override, to_yaml
from negbench.settings.resolve import resolve, restore

USER_METHOD = '''"""Mine: negatives are the batch."""
from negbench.methods.simclr import Config, build
'''


def study(tmp_path: Path, **content: object) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_later_layers_win_and_origins_name_them(tmp_path: Path) -> None:
    file = study(
        tmp_path,
        epochs=3,
        optimizer={"lr": 0.1},
        method={"temperature": 0.3},
        per_method={"moco": {"method": {"temperature": 0.4, "num_negatives": 64}, "optimizer": {"lr": 0.2}}},
    )
    resolved = resolve("moco", file, ["method.num_negatives=128", "views.first.hue=0.3"], seed=5)
    config = resolved.config
    assert (config.epochs, config.optimizer.lr, config.method.temperature) == (3, 0.2, 0.4)
    assert (config.method.num_negatives, config.seed) == (128, 5)
    assert resolved.origin("epochs") == "study mine"
    assert resolved.origin("optimizer.lr") == "study mine, block of moco"
    assert resolved.origin("method.num_negatives") == resolved.origin("seed") == "--set"
    assert resolved.origin("batch_size") == "default"
    assert resolve("adco", file).config.optimizer.lr == 0.1
    assert resolved.label == "moco (num_negatives=128, views.first.hue=0.3)"
    assert resolved.changed == {"method.num_negatives": 128, "views.first.hue": 0.3}


def test_what_a_view_policy_sets_has_it_and_its_layer_as_the_origin(tmp_path: Path) -> None:
    file = study(tmp_path, views="byol", per_method={"moco": {"method": {"temperature": 0.4}}})
    resolved = resolve("moco", file, ["views.first.hue=0.3", "views.second.contrast=0"])
    assert resolved.origin("views.policy") == "study mine"
    assert resolved.origin("views.first.saturation") == resolved.origin("views.second.saturation")
    assert resolved.origin("views.second.solarize_probability") == "views: byol (study mine)"
    assert resolved.origin("views.first.hue") == resolved.origin("views.second.contrast") == "--set"
    assert resolved.origin("views.second.hue") == "views.first.hue (--set)"
    assert resolved.origin("views.first.contrast") == "default"
    assert resolved.label == "moco (views.first.hue=0.3, views.second.contrast=0.0)"


def test_second_view_starts_from_the_first_and_policies_give_both() -> None:
    config = resolve("moco", "quickstart", ["views=byol", "views.first.hue=0.3", "views.second.contrast=0"]).config
    assert config.views.first.blur_probability == 1.0
    assert config.views.second.blur_probability == 0.1
    assert config.views.second.solarize_probability == 0.2
    assert config.views.first.hue == config.views.second.hue == 0.3
    assert (config.views.first.contrast, config.views.second.contrast) == (0.4, 0.0)


def test_a_run_is_made_again_by_the_name_of_its_study(tmp_path: Path) -> None:
    recipe = resolve("adco", "paper/adco-imagenet-200", seed=2)
    assert recipe.run_id.startswith("adco-imagenet-200-adco-s2-")
    again = ["negbench", "run", "--method", "adco", "--config", "paper/adco-imagenet-200", "--seed", "2"]
    assert recipe.command == again
    copied = tmp_path / recipe.study_file.name
    copied.write_bytes(recipe.study_file.read_bytes())
    assert resolve("adco", str(copied), seed=2).command == again
    copied.write_text(copied.read_text() + "# mine\n")
    assert resolve("adco", str(copied), seed=2).command == [str(copied) if "/" in part else part for part in again]


def test_run_id_covers_what_can_change_a_result() -> None:
    base = resolve("moco").run_id
    assert re.fullmatch(r"quickstart-moco-s0-[0-9a-f]{8}", base)
    for same in ("data.root=/elsewhere", "log_every_steps=3", "checkpoint_every_min=2", "checkpoints.keep=5"):
        assert resolve("moco", overrides=[same]).run_id == base
    for other in ("epochs=3", "method.temperature=0.5", "views.second.hue=0", "precision=fp32"):
        assert resolve("moco", overrides=[other]).run_id != base
    assert resolve("moco", seed=7).run_id == base.replace("-s0-", "-s7-")
    at_default = "optimizer.momentum=0.9"
    assert resolve("moco", overrides=[at_default]).run_id == base


def test_a_users_method_file_enters_the_run_id(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_METHOD)
    before = resolve(str(path)).run_id
    assert "-mine-s0-" in before
    path.write_text(USER_METHOD + "\n# another\n")
    assert resolve(str(path)).run_id != before


def test_a_run_keeps_its_id_while_its_method_file_is_edited(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_METHOD)
    resolved = resolve(str(path))
    before = resolved.run_id
    path.write_text("")
    assert resolved.run_id == before


def test_a_run_folder_gives_back_its_settings(tmp_path: Path) -> None:
    config = resolve("adco", overrides=["views=byol", "method.start=random"]).config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = restore(tmp_path)
    assert again.config == config
    assert again.run_id == resolve("adco", overrides=["views=byol", "method.start=random"]).run_id


def test_every_setting_has_a_description() -> None:
    for method in ("adco", "moco", "simclr", "byol"):
        schema = type(resolve(method).config)
        assert [key for key, field in leaves(schema) if not field.description] == []
        assert set(dict(leaves(schema))) == set(flatten(resolve(method).config))


@pytest.mark.parametrize(
    ("method", "overrides", "sentence"),
    [
        ("mocco", [], "unknown method 'mocco', did you mean 'moco'\\?; known: adco, byol, moco, simclr"),
        (
            "moco",
            ["optimizer.learning_rate=1"],
            "unknown key optimizer.learning_rate \\(--set\\), did you mean 'optimizer",
        ),
        ("moco", ["method.temprature=1"], "unknown key method.temprature .*'method.temperature'"),
        ("byol", ["method.num_negatives=1"], "unknown key method.num_negatives"),
        ("moco", ["warmup=1"], "unknown key warmup .*'schedule.warmup_epochs'"),
        ("moco", ["epochs=-1"], "epochs \\(--set\\): input should be greater than or equal to 1, not -1"),
        ("moco", ["optimizer.lr=fast"], "optimizer.lr .*number.*not 'fast'"),
        ("moco", ["views.first.hu=0.3"], r"unknown key views.first.hu \(--set\), did you mean 'views.first.hue'\?"),
        ("moco", ["views=mocov2"], "unknown view policy 'mocov2'; known: moco-v2"),
        (
            "moco",
            ["views.first.crop_scale=[0.5, 0.2]"],
            r"crop_scale \(--set\): must be two numbers in \(0, 1\], low",
        ),
        ("moco", ["epochs"], "--set epochs must have the form key.path=value"),
        ("moco", ["optimizer=sgd"], "optimizer \\(--set\\) is a group of settings"),
        ("nowhere.py", [], "there is no method file nowhere.py"),
        ("simclr", ["method.symmetric=false"], "method.symmetric"),
    ],
)
def test_mistakes_get_one_sentence(method: str, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        resolve(method, "quickstart", overrides)
    assert "\n" not in str(error.value)


def test_mistakes_in_study_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown study 'cifar', did you mean 'cifar10'\?"):
        resolve("moco", "cifar")
    with pytest.raises(ValueError, match=r"did you mean 'paper/adco-imagenet-200'\?; known: cifar10, .*paper/byol"):
        resolve("adco", "adco-imagenet-200")
    with pytest.raises(ValueError, match=r"there is no study file none.yaml"):
        resolve("moco", "none.yaml")
    with pytest.raises(ValueError, match=r"per_method.moco sets batch_size, but in a controlled study"):
        resolve("moco", study(tmp_path, per_method={"moco": {"batch_size": 3}}))
    assert (
        resolve("moco", study(tmp_path, track="recipe", per_method={"moco": {"batch_size": 3}})).config.batch_size == 3
    )
    with pytest.raises(ValueError, match="names no single method; add --method"):
        resolve(None, study(tmp_path, epochs=1))
    assert resolve(None, study(tmp_path, method="byol")).config.method.name == "byol"
    (tmp_path / "broken.yaml").write_text("epochs: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        resolve("moco", str(tmp_path / "broken.yaml"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: 1\nseed: 1\nepochs: 2", "line 3 sets epochs a second time"),
        ("optimizer: {lr: 1, lr: 2}", "line 1 sets lr a second time"),
        ("optimizer.lr: 1\noptimizer: {lr: 2}", "optimizer.lr is set twice"),
        ("views: moco-v2\nviews.policy: simclr", "views.policy is set twice"),
        (f"epochs: {'1' * 5000}", "not valid YAML"),
    ],
)
def test_a_setting_that_a_file_holds_twice_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        resolve("moco", str(tmp_path / "twice.yaml"))


@pytest.mark.parametrize("value", ["1" * 5000, "0x" + "f" * 6000, "2001-13-45", "!!bool x", "[" * 3000])
def test_a_value_that_yaml_cannot_read_is_one_short_sentence(value: str) -> None:
    with pytest.raises(UserError, match=r"^--set epochs=.* is not a YAML value$") as error:
        parse_override(f"epochs={value}")
    assert len(str(error.value)) < 600
    with pytest.raises(UserError, match="must have the form KEY=VALUE,VALUE"):
        combinations([f"epochs={value}"])


@pytest.mark.parametrize(
    "name", ["=cmd", "@SUM", "+1", "-x", "<b>x", "a b", "a'\"$(touch x)", "\\input", "%j", "1st", "a.b", "a|b", "."]
)
def test_a_method_file_whose_name_is_no_plain_name_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(USER_METHOD)
    with pytest.raises(
        UserError, match="rename it: names have letters, digits, _ and -, and begin with a letter"
    ) as told:
        resolve(str(path))
    assert str(path) in str(told.value)


@pytest.mark.parametrize("name", ["my-method", "größe", "_x", "v2"])
def test_a_method_file_has_a_plain_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(USER_METHOD)
    assert resolve(str(path)).config.method.name == name
