"""The views of a policy, as a run has them."""

from negbench.settings.resolve import resolve
from negbench.settings.views import ViewsConfig


def of_policy(policy: str) -> ViewsConfig:
    return resolve("moco", "quickstart", [f"views={policy}"]).config.views
