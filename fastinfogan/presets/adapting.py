"""A preset with other codes, data or networks than it was made for.

Options that are given count. What the preset itself says and these rule out is changed: a term that
has no code to act on is switched off, and sides, channels and networks are those of the images. A
contradiction between given options is refused, once and with what works. An option of a term that
is off has no effect, which a line says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import data
from ..config import OPTIONS, TrainConfig
from ..errors import UserError
from ..latents import Categorical
from ..networks import TABLES, check_image_size
from ..terms.follow import FollowOptions
from ..terms.instances import InstancesOptions, embedding
from ..terms.invariance import categorical_columns
from ..terms.warp import Warp, parse_changes

# Networks for a side that the preset's do not take, in order of choice.
_OTHERS = ("svhn", "mnist")
_START_RATES = ("lr-start", "lr-start-decay")
_RESTARTS = {"invariance.restarts": 0, "invariance.restart-at": 0}


def adapt(config: TrainConfig, given: frozenset[str]) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return the configuration that can be trained, and lines on what is changed or has no effect.

    Args:
        config: a preset's, with the given options set.
        given: the spellings of these options; none of them is changed.

    Raises UserError where given options contradict the images.
    """
    adapting = _Adapting(config, given)
    adapting.take_size()
    adapting.take_networks()
    adapting.switch_off_terms()
    adapting.switch_off_restarts()
    adapting.switch_off_start()
    notes = _idle_options(adapting.config, given)
    if adapting.changes:
        notes.insert(0, f"{config.preset} is changed: {'; '.join(adapting.changes)}")
    return adapting.config, tuple(notes)


def _idle_options(config: TrainConfig, given: frozenset[str]) -> list[str]:
    """Return a line per reason for which given options have no effect."""
    names: dict[str, list[str]] = {}  # by reason
    for name in sorted(given):
        reason = _idle_reason(config, name)
        if reason and OPTIONS[name].get(config) not in (0, "", Warp()):
            names.setdefault(reason, []).append(f"--{name}")
    return [f"without effect: {', '.join(some)} ({reason})" for reason, some in names.items()]


def _idle_reason(config: TrainConfig, name: str) -> str | None:
    """Return what takes an option's effect away, mostly a weight of 0, if anything does."""
    part = next((part for part in config.groups if name.startswith(f"{part.prefix}.")), None)
    if part is None or name.endswith(".weight"):
        return None
    if name.startswith(("invariance.warp", "photo.")):
        return _all_off(config.invariance, config.follow, config.instances, config.pseudo_labels)
    if name == "invariance.logits":
        return _all_off(config.invariance, config.pseudo_labels)
    compared = config.invariance.weight and len(categorical_columns(config.spec()))
    if name == "invariance.restart-at" and config.invariance.weight:
        return None if config.invariance.restarts else "--invariance.restarts is 0"
    if name == "invariance.codes" and compared == 1:
        return "there is one categorical code"
    return f"--{part.prefix}.weight is 0" if getattr(part, "weight", None) == 0 else None


def _all_off(*terms: Any) -> str | None:
    """Return that the terms' weights are 0, or None where one is not."""
    if any(term.weight for term in terms):
        return None
    *names, last = (f"--{term.prefix}.weight" for term in terms)
    return f"{', '.join(names)} and {last} are 0"


class _Adapting:
    """A configuration while it is changed, and what has been."""

    def __init__(self, config: TrainConfig, given: frozenset[str]) -> None:
        self.config, self.given = config, given
        self.changes: list[str] = []
        self._own: tuple[int, int, int] | None = None  # H, W, C of images that are not resized

    def _change(self, reason: str, values: Mapping[str, Any]) -> None:
        """Change options, by their spellings, and note them with the reason."""
        words = []
        for spelling, value in values.items():
            self.config = OPTIONS[spelling].set(self.config, value)
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{spelling}")
            else:
                words.append(f"--{spelling} {value:g}" if value == 0 else f"--{spelling} {value}")
        self.changes.append(f"{' '.join(words)} ({reason})")

    def take_size(self) -> None:
        """Take the side and the channels of images that are not resized."""
        size = self.config.data
        self._own = data.own_size(size.data)
        if self._own is None:
            return
        height, width, channels = self._own
        if height != width:
            return  # reading them tells
        wrong = [
            f"--{name} {value}"
            for name, value, own in (
                ("image-size", size.image_size, height),
                ("channels", size.channels, channels),
            )
            if name in self.given and value != own
        ]
        if wrong:
            raise UserError(
                f"--data {size.data}: images are {height}x{width} with {channels} channels, and "
                f"such sets are not resized; leave out {' and '.join(wrong)}"
            )
        own = {"image-size": height, "channels": channels}
        changed = {name: own[name] for name in own if OPTIONS[name].get(self.config) != own[name]}
        if changed:
            self._change("the images'", changed)

    def take_networks(self) -> None:
        """Take networks for the images' side where the preset's do not take it."""
        networks, side = self.config.adversarial.networks, self.config.data.image_size
        if ":" in networks:
            standard = {"spectral-norm": False, "q-trunk": "shared"}
            changed = {
                name: value
                for name, value in standard.items()
                if name not in self.given and OPTIONS[name].get(self.config) != value
            }
            if changed:
                self._change("the networks are your own", changed)
            return
        if _takes(networks, side):
            return
        other = next((name for name in _OTHERS if _takes(name, side)), None)
        fixed = "networks" in self.given
        if other is None or fixed:
            self._refuse(networks if fixed else None, other)
            return
        options: dict[str, Any] = {"networks": other}
        table = TABLES.get(networks)
        if table is not None and table.spectral and "spectral-norm" not in self.given:
            options["spectral-norm"] = True
        self._change(f"the preset's take no side of {side}", options)

    def _refuse(self, networks: str | None, other: str | None) -> None:
        """Refuse a side that cannot be changed. One that can, `config.check` refuses."""
        if self._own is None:
            return
        side = self._own[0]
        where = f"--data {self.config.data.data}: images are {side}x{side}, and such sets are not"
        if other is not None:
            raise UserError(
                f"{where} resized; --networks {networks} does not take them: leave it out, or give "
                f"--networks {other}"
            )
        raise UserError(
            f"{where} resized; no networks take that side (multiples of 4 from 8 to 128, of 16 to "
            "256): save the images as files, which are resized (folder:PATH), or give networks of "
            "your own (--networks)"
        )

    def switch_off_terms(self) -> None:
        """Switch off the preset's terms that the codes, the routing or other terms rule out."""
        config = self.config
        spec = config.spec()
        has_categories = any(isinstance(code, Categorical) for code in spec.codes)
        off: dict[str, list[str]] = {}  # terms by reason
        for term in config.real_terms:
            reason = ""
            if not term.weight or f"{term.prefix}.weight" in self.given:
                continue
            if config.information.routing == "generator-step":
                reason = "Q does not learn in D's step"
            elif isinstance(term, FollowOptions):
                if not term.dims(spec):
                    reason = "no uniform or gaussian code"
                elif missing := self._missing_changes():
                    reason = f"the warp changes no {' and no '.join(missing)}"
            elif isinstance(term, InstancesOptions):
                if embedding(spec) is None:
                    reason = "no last continuous code of two dims or more"
            elif not has_categories:
                reason = "no categorical code"
            elif term is config.invariance and config.upright.weight:
                reason = "--upright.weight takes its place"
            elif term is config.upright and "invariance.weight" in self.given:
                reason = "--invariance.weight takes its place" * bool(config.invariance.weight)
            if reason:
                off.setdefault(reason, []).append(f"{term.prefix}.weight")
        for reason, names in off.items():
            self._change(reason, dict.fromkeys(names, 0.0))

    def switch_off_restarts(self) -> None:
        """Switch off the preset's restarts of the categories where Q learns nothing before them."""
        of = self.config.invariance
        finer = of.codes == "all" and len(categorical_columns(self.config.spec())) > 1
        learns = of.weight and (finer or self.config.instances.weight)
        if of.restarts and not learns and not _RESTARTS.keys() & self.given:
            self._change("Q has nothing to learn before them", _RESTARTS)

    def switch_off_start(self) -> None:
        """Switch off the preset's updates before the game where none of them could be taken."""
        config, start = self.config, self.config.adversarial.gan_start
        rates: dict[str, Any] = {name: 0 for name in _START_RATES if OPTIONS[name].get(config)}
        if config.invariance.restarts:
            rates |= _RESTARTS
        if config.adversarial.q_trunk == "fixed":  # it learns before the game alone
            rates["q-trunk"] = "own"
        if not start and rates and not self.given & rates.keys():
            self._change("there is no --gan-start", rates)
        if not start or "gan-start" in self.given:
            return
        if not (config.term or any(term.weight for term in config.real_terms)):
            self._change("no term acts on real images", {"gan-start": 0, **rates})
        elif config.steps <= start:
            self._change(f"--steps {config.steps} are not more", {"gan-start": 0, **rates})

    def _missing_changes(self) -> list[str]:
        """Return the changes that codes are to follow and the warp does not make."""
        follow = self.config.follow
        if "follow.changes" in self.given:
            return []
        changes = parse_changes(follow.changes)[: follow.dims(self.config.spec())]
        return [change for change in changes if not self.config.invariance.warp.makes(change)]


def _takes(networks: str, side: int) -> bool:
    try:
        check_image_size(side, networks)
    except ValueError:
        return False
    return True
