"""Words for avatars: varied captions, what is plainly true of a picture, two-way questions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.world.avatars.attributes import ATTRIBUTES, BY_NAME, Look, as_look
from training.world.avatars.colours import HUE_NAMES

Truth = dict[str, bool]
BALD = 0.04  # hair length up to which nothing is seen of it

SUBJECTS = ("person", "person", "face", "character", "avatar", "cartoon person", "human")
OPENINGS = ("", "", "", "a portrait of ", "a drawing of ", "a picture of ", "an illustration of ")
HAIR_BANDS: tuple[tuple[float, float, tuple[str, ...]], ...] = (
    (0.00, 0.11, ("black", "jet-black", "dark")),
    (0.19, 0.33, ("brown", "brunette")),
    (0.37, 0.43, ("auburn", "reddish-brown")),
    (0.46, 0.55, ("red", "ginger", "copper")),
    (0.65, 0.75, ("blond", "blonde", "golden")),
    (0.88, 1.00, ("white", "silver", "grey")),
)
EYE_BANDS = (
    (0.00, 0.20, ("brown", "dark")),
    (0.44, 0.56, ("green",)),
    (0.64, 1.00, ("blue",)),
)
HAT_NOUNS = {
    True: ("wide-brimmed hat", "hat", "sun hat", "brimmed hat"),
    False: ("beanie", "knitted cap", "woolly hat", "bobble hat", "cap"),
}
GLASSES_NOUNS = {
    True: ("sunglasses", "dark glasses", "shades"),
    False: ("glasses", "spectacles", "eyeglasses"),
}
ADJECTIVES: dict[tuple[str, bool], tuple[str, ...]] = {
    ("smile", True): ("smiling", "happy", "cheerful", "grinning"),
    ("smile", False): ("frowning", "sad", "unhappy", "gloomy"),
    ("age_lines", True): ("old", "elderly", "aged", "wrinkled"),
    ("age_lines", False): ("young",),
    ("beard", True): ("bearded",),
    ("freckles", True): ("freckled",),
    ("blush", True): ("blushing",),
    ("eye_open", False): ("sleeping", "dozing"),
}
# Attributes of one thing: told in one phrase ("long red hair"), never in two.
GROUPS = (
    ("hair_length", "hair_curl", "hair_colour", "hair_dye"),
    ("glasses", "glasses_shape", "glasses_tint"),
    ("hat", "hat_brim"),
    ("beard",),
    ("eye_colour",),
)
SCENERY = ("clothing_tone", "background_tone")
GROUPED = frozenset(name for group in GROUPS for name in group)


def truth(attributes: Sequence[float] | NDArray[np.floating]) -> Truth:
    """What anybody would agree on when looking at the picture.

    Returns:
        attribute name -> True where its `positive` phrases hold, False where its `negative` ones
        do. A name is missing when the value lies in between, when it has no phrases, or when
        something covers it (eye colour behind sunglasses, hair under a hat, the jaw in a beard).
    """
    look = as_look(attributes)
    hidden = _hidden(look)
    facts: Truth = {}
    for a in ATTRIBUTES:
        value = getattr(look, a.name)
        if a.name in hidden or not a.positive or a.low < value < a.high:
            continue
        facts[a.name] = bool(value >= a.high)
    return facts


def _hidden(look: Look) -> set[str]:
    hidden: set[str] = set()
    if look.hair_length < 0.12:  # bald or nearly
        hidden |= {"hair_length", "hair_curl", "hair_volume", "fringe", "hair_colour", "hair_dye"}
    if look.hat > 0.15:
        hidden |= {"hair_volume", "fringe"}
        if look.hair_length < 0.45:
            hidden |= {"hair_length", "hair_curl", "hair_colour", "hair_dye"}
    if look.hair_length < 0.25:
        hidden |= {"hair_curl", "hair_volume"}
    if look.hair_dye > 0.1:
        hidden.add("hair_colour")
    if look.glasses < BY_NAME["glasses"].high:
        hidden |= {"glasses_shape", "glasses_tint"}
    elif look.glasses_tint > 0.15:
        hidden |= {
            "eye_open",
            "eye_colour",
            "eye_size",
            "gaze_x",
            "gaze_y",
            "brow_height",
            "brow_angle",
            "brow_weight",
        }
    if look.eye_open < 0.5:
        hidden |= {"eye_colour", "eye_size", "gaze_x", "gaze_y"}
    if look.hat < BY_NAME["hat"].high:
        hidden.add("hat_brim")
    if look.beard > 0.15:
        hidden.add("jaw")
    if look.skin_tone < 0.25:  # brown spots on brown skin
        hidden.add("freckles")
    return hidden


def caption(attributes: Sequence[float] | NDArray[np.floating], rng: np.random.Generator) -> str:
    """One sentence that mentions one to five visible things about an avatar.

    Args:
        attributes: (A,), in [0, 1].
        rng: source of the wording; the same state gives the same words.
    """
    look = as_look(attributes)
    facts = truth(attributes)
    adjective, told = _adjective(facts, rng)
    grouped = _composed(look, facts, rng) if rng.random() < 0.7 else _plain(facts, rng)
    names = [n for n in facts if n not in GROUPED and n not in SCENERY and n != told]
    others = [p for p in (_phrase(n, facts, rng) for n in names) if p]
    others += _scenery(look, facts, rng)
    phrases = grouped + others
    # hair, glasses, hat and beard are what people name first
    weight = np.array([3.0] * len(grouped) + [1.0] * len(others))

    most = min(4 if adjective else 5, len(phrases))
    count = int(rng.integers(0 if adjective else 1, most + 1)) if most else 0
    places = rng.choice(len(phrases), count, replace=False, p=weight / weight.sum())
    chosen = [phrases[i] for i in sorted(places)]
    subject = f"{adjective} {_pick(SUBJECTS, rng)}".strip()
    return f"{_pick(OPENINGS, rng)}{_a(subject)}{_join(chosen)}"


def two_way_phrases(attribute: str) -> list[tuple[str, str]]:
    """Pairs of captions of which exactly one is true where `truth` knows the attribute.

    Args:
        attribute: a name in `NAMES`.

    Returns:
        [(positive caption, negative caption)], empty for scales whose ends have no words.

    Raises:
        ValueError: no such attribute.
    """
    if attribute not in BY_NAME:
        raise ValueError(f"no avatar attribute {attribute!r}; there are {', '.join(BY_NAME)}")
    a = BY_NAME[attribute]
    if not a.positive:
        return []
    pairs = max(len(a.positive), len(a.negative))
    return [
        (
            f"a person {a.positive[i % len(a.positive)]}",
            f"a person {a.negative[i % len(a.negative)]}",
        )
        for i in range(pairs)
    ]


def hue_name(hue: float, tone: float = 0.5) -> str | None:
    """Name of a hue at a tone, None between two names or where it would look like another one
    (a dark orange is brown, a pale red is pink)."""
    place = hue * (len(HUE_NAMES) - 1)
    nearest = round(place)
    name = HUE_NAMES[nearest]
    warm = name in ("red", "orange", "yellow")
    if abs(place - nearest) > 0.28 or (warm and not 0.4 <= tone <= 0.7):
        return None
    return name


def _band(
    bands: Sequence[tuple[float, float, tuple[str, ...]]], value: float
) -> tuple[str, ...] | None:
    return next((words for low, high, words in bands if low <= value <= high), None)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _adjective(facts: Truth, rng: np.random.Generator) -> tuple[str, str]:
    """An adjective for the subject and the attribute it tells, or two empty strings."""
    known = [key for key in ADJECTIVES if facts.get(key[0]) is key[1]]
    if not known or rng.random() < 0.5:
        return "", ""
    key = known[int(rng.integers(len(known)))]
    return _pick(ADJECTIVES[key], rng), key[0]


def _phrase(name: str, facts: Truth, rng: np.random.Generator) -> str:
    """An attribute in its own words, or nothing: what is absent is seldom worth a word, yet
    "without" has to be learnt."""
    return _pick(_words(name, facts), rng) if facts[name] or rng.random() < 0.35 else ""


def _plain(facts: Truth, rng: np.random.Generator) -> list[str]:
    """One attribute of each group in its own words."""
    phrases = []
    for group in GROUPS:
        known = [name for name in group if name in facts]
        if known:
            phrases.append(_phrase(_pick(known, rng), facts, rng))
    return [p for p in phrases if p]


def _composed(look: Look, facts: Truth, rng: np.random.Generator) -> list[str]:
    """Each group in one phrase of several words: "with long curly red hair"."""
    phrases = [
        _hair(look, facts, rng),
        _eyes(look, rng),
        _hat(look, facts, rng),
        _glasses(facts, rng),
        _beard(look, facts, rng),
    ]
    absent = [n for n in ("glasses", "hat", "beard") if facts.get(n) is False]
    phrases += [_phrase(name, facts, rng) for name in absent]
    return [p for p in phrases if p]


def _scenery(look: Look, facts: Truth, rng: np.random.Generator) -> list[str]:
    """Clothing and background: the colour where it has a name, else how light it is."""
    phrases = []
    clothing = hue_name(look.clothing_hue, look.clothing_tone)
    if clothing:
        phrases.append(f"in {_a(clothing)} {_pick(('shirt', 'top', 'sweater'), rng)}")
    elif "clothing_tone" in facts:
        phrases.append(_pick(_words("clothing_tone", facts), rng))
    background = hue_name(look.background_hue, look.background_tone)
    if background:
        phrases.append(f"{_pick(('on', 'against'), rng)} {_a(background)} background")
    elif "background_tone" in facts:
        phrases.append(_pick(_words("background_tone", facts), rng))
    return phrases


def _words(name: str, facts: Truth) -> tuple[str, ...]:
    return BY_NAME[name].positive if facts[name] else BY_NAME[name].negative


def _a(words: str) -> str:
    """With the indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _hair(look: Look, facts: Truth, rng: np.random.Generator) -> str:
    if look.hair_length < BALD and look.hat < 0.15:
        return _pick(("with a bald head", "who is bald", "with no hair"), rng)
    words = []
    if "hair_length" in facts:
        words.append("long" if facts["hair_length"] else "short")
    if "hair_curl" in facts:
        words.append("curly" if facts["hair_curl"] else "straight")
    colour = _hair_colour(look, facts, rng)
    if colour:
        words.append(colour)
    kept = [w for w in words if rng.random() < 0.7] or words[:1]
    return f"with {' '.join(kept)} hair" if kept else ""


def _hair_colour(look: Look, facts: Truth, rng: np.random.Generator) -> str | None:
    hidden = _hidden(look)
    if facts.get("hair_dye"):
        return hue_name(look.dye_hue)
    if look.hair_dye > 0.1 or "hair_colour" in hidden:
        return None
    names = _band(HAIR_BANDS, look.hair_colour)
    return _pick(names, rng) if names else None


def _eyes(look: Look, rng: np.random.Generator) -> str:
    names = _band(EYE_BANDS, look.eye_colour)
    if names is None or "eye_colour" in _hidden(look):
        return ""
    return f"with {_pick(names, rng)} eyes"


def _hat(look: Look, facts: Truth, rng: np.random.Generator) -> str:
    if not facts.get("hat"):
        return ""
    nouns = HAT_NOUNS[facts["hat_brim"]] if "hat_brim" in facts else ("hat",)
    colour = hue_name(look.hat_hue) if rng.random() < 0.6 else None
    noun = _pick((*nouns, "hat"), rng)
    text = f"{colour} {noun}" if colour else noun
    return f"{_pick(('wearing', 'with', 'in'), rng)} {_a(text)}"


def _glasses(facts: Truth, rng: np.random.Generator) -> str:
    if not facts.get("glasses"):
        return ""
    noun = _pick(GLASSES_NOUNS[facts.get("glasses_tint", False)], rng)
    if "glasses_shape" in facts and rng.random() < 0.5:
        shape = ("square", "rectangular") if facts["glasses_shape"] else ("round", "circular")
        noun = f"{_pick(shape, rng)} {noun}"
    return f"{_pick(('wearing', 'with'), rng)} {noun}"


def _beard(look: Look, facts: Truth, rng: np.random.Generator) -> str:
    """A beard, with its colour where that has a name."""
    if not facts.get("beard"):
        return ""
    names = _band(HAIR_BANDS, look.hair_colour)
    if look.hair_dye > 0.1 or names is None or rng.random() < 0.4:
        return _pick(BY_NAME["beard"].positive, rng)
    return f"with {_a(_pick(names, rng))} beard"


def _join(phrases: Sequence[str]) -> str:
    """What follows the subject: first what it has, then what it is, then the rest by commas."""
    having = [p.removeprefix("with ") for p in phrases if p.startswith("with ")]
    being = [p.removeprefix("who ") for p in phrases if p.startswith("who ")]
    rest = [p for p in phrases if not p.startswith(("with ", "who "))]
    text = f" with {_and(having)}" if having else ""
    if being:
        text += f" who {_and(being)}"
    for p in rest:
        text += f", {p}" if text else f" {p}"
    return text


def _and(words: Sequence[str]) -> str:
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last
