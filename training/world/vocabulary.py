"""Every name that mini's pictures can be asked for: emoji concepts and photograph categories."""

from dataclasses import dataclass

from .concepts import Concept

# What a person might type around a name. The bare name comes first: it is typed most.
TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "a {}",
    "a picture of a {}",
    "an image of a {}",
    "a photo of a {}",
    "a drawing of a {}",
    "an icon of a {}",
)


@dataclass(frozen=True)
class Vocabulary:
    """Rows of names; a name that is both an emoji and a photo category has one row.

    Attributes:
        names: (R,) canonical names; the first `len(concepts)` rows are the concepts, in order.
        texts: (R,) training texts of each row: the name in templates, synonyms bare and in one.
        photo_rows: (P,) row of each photo category.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    photo_rows: tuple[int, ...]


def build(concepts: tuple[Concept, ...], photo_names: tuple[str, ...]) -> Vocabulary:
    """The vocabulary of a world. Synonyms laid aside for evaluation do not enter."""
    names = [concept.name for concept in concepts]
    texts = [_texts(concept.name, concept.synonyms) for concept in concepts]
    rows = {name: row for row, name in enumerate(names)}
    for row, concept in enumerate(concepts):
        for synonym in concept.synonyms:
            rows.setdefault(synonym, row)
    photo_rows = []
    for name in photo_names:
        if name not in rows:
            rows[name] = len(names)
            names.append(name)
            texts.append(_texts(name, ()))
        photo_rows.append(rows[name])
    return Vocabulary(tuple(names), tuple(texts), tuple(photo_rows))


def _texts(name: str, synonyms: tuple[str, ...]) -> tuple[str, ...]:
    own = [template.format(name) for template in TEMPLATES]
    return tuple(own + [form.format(s) for s in synonyms for form in ("{}", "{}", "a {}")])
