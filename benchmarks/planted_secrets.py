"""Made secrets of known kinds in made code, as issuers write them; a seed decides."""

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEX, UPPER, LOWER, DIGITS = "0123456789abcdef", string.ascii_uppercase, string.ascii_lowercase, string.digits
ALNUM = string.ascii_letters + DIGITS
URL = ALNUM + "-_"
Draw = Callable[[random.Random], str]


def _of(alphabet: str, count: int) -> Draw:
    return lambda r: "".join(r.choices(alphabet, k=count))


def _join(*parts: str | Draw) -> Draw:
    return lambda r: "".join(part if isinstance(part, str) else part(r) for part in parts)


def _either(*draws: Draw) -> Draw:
    return lambda r: r.choice(draws)(r)


def _private_key(r: random.Random) -> str:
    return "\n".join(_of(ALNUM + "+/", 64)(r) for _ in range(r.randrange(6, 25)))


def _ipv4(r: random.Random) -> str:
    return f"{r.choice((23, 45, 81, 93, 104, 185, 212))}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"


def _ipv6(r: random.Random) -> str:
    middle = ":".join(f"{r.randrange(1, 1 << 16):x}" for _ in range(6))
    return f"2a0{r.randrange(1, 10)}:{middle}:{r.randrange(1, 1 << 16):x}"


def _email(r: random.Random) -> str:
    user = r.choice(("anna", "j.doe", "li_wei", "max+news", "o-brien")) + str(r.randrange(1000))
    return f"{user}@{_of(LOWER, 8)(r)}.{r.choice(('com', 'org', 'co.uk', 'de', 'io'))}"


def _password(r: random.Random) -> str:
    value = [*_of(ALNUM + "!*+-._", 14)(r), *_of(DIGITS, 2)(r), *_of(LOWER, 2)(r)]
    r.shuffle(value)
    return "".join(value)


# Kind: the secret, and lines around it, in which {} is the secret; None: the contexts that fit all.
KINDS: dict[str, tuple[Draw, tuple[str, ...] | None]] = {
    "private-key": (_private_key, ("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
                                   "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----")),
    "aws-access-key": (_join("AKIA", _of(UPPER + "234567", 16)), None),
    "aws-secret-key": (_of(ALNUM + "+/", 40), ("AWS_SECRET_ACCESS_KEY={}", 'aws_secret_access_key = "{}"')),
    "github-token": (_either(_join("ghp_", _of(ALNUM, 36)),
                             _join("github_pat_", _of(ALNUM, 22), "_", _of(ALNUM, 59))), None),
    "gitlab-token": (_join("glpat-", _of(URL, 20)), None),
    "slack-token": (_join("xoxb-", _of(DIGITS, 12), "-", _of(DIGITS, 12), "-", _of(ALNUM, 24)), None),
    "slack-webhook": (_join("T", _of(UPPER + DIGITS, 8), "/B", _of(UPPER + DIGITS, 10), "/", _of(ALNUM, 24)),
                      ("url: https://hooks.slack.com/services/{}",)),
    "stripe-key": (_join("sk_live_", _of(ALNUM, 24)), None),
    "google-api-key": (_join("AIza", _of(URL, 35)), None),
    "google-oauth": (_join("GOCSPX-", _of(URL, 28)), None),
    "twilio-key": (_join("SK", _of(HEX, 32)), None),
    "sendgrid-key": (_join("SG.", _of(URL, 22), ".", _of(URL, 43)), None),
    "mailgun-key": (_join("key-", _of(HEX, 32)), None),
    "mailchimp-key": (_join(_of(HEX, 32), "-us", _of(DIGITS, 2)), None),
    "npm-token": (_join("npm_", _of(ALNUM, 36)), None),
    "pypi-token": (_join("pypi-AgEIcHlwaS5vcmc", _of(URL, 150)), None),
    "hugging-face-token": (_join("hf_", _of(string.ascii_letters, 34)), None),
    "openai-key": (_either(_join("sk-proj-", _of(URL, 74)), _join("sk-", _of(ALNUM, 48))), None),
    "square-key": (_join("sq0atp-", _of(URL, 22)), None),
    "shopify-token": (_join("shpat_", _of(HEX, 32)), None),
    "digitalocean-token": (_join("dop_v1_", _of(HEX, 64)), None),
    "azure-storage-key": (_join(_of(ALNUM + "+/", 86), "=="), ("AccountName=store;AccountKey={};EndpointSuffix=core",)),
    "telegram-token": (_join(_of(DIGITS, 10), ":AA", _of(URL, 33)), None),
    "discord-token": (_join("M", _of(URL, 23), ".", _of(URL, 6), ".", _of(URL, 27)), None),
    "json-web-token": (_join("eyJ", _of(URL, 33), ".eyJ", _of(URL, 60), ".", _of(URL, 43)), None),
    "password-in-url": (_password, ("db = 'postgres://admin:{}@db.internal:5432/shop'",)),
    "assigned-secret": (_password, ('password = "{}"', "'api_key': '{}',", 'const authToken = "{}";', 'secret: "{}"')),
    "email": (_email, ("# written by {}", 'maintainer = "{}"', " * @author <{}>", "contact: {}")),
    "ipv4": (_ipv4, ('host = "{}"', "ssh root@{}", "server {}:8080;")),
    "ipv6": (_ipv6, ('listen = "{}"', "ping6 {}")),
}  # fmt: skip
ANYWHERE = (
    'KEY = "{}"',
    "export SERVICE_VALUE={}",
    "value: {}",
    "# old: {}",
    "curl -H 'X-Auth: {}' host",
    '{{"k": "{}"}}',
)


@dataclass(frozen=True)
class Planted:
    """A secret in code.

    Attributes:
        kind: name of the pattern that is to find it.
        value: the secret.
        before: code that holds it.
        after: the same code with a line more, so the two are an edit; the secret is in both.
    """

    kind: str
    value: str
    before: str
    after: str


def planted(seed: int, per_kind: int) -> Iterator[Planted]:
    """Yield secrets of all kinds."""
    for kind, (draw, contexts) in KINDS.items():
        r = random.Random(f"{seed} {kind}")
        for number in range(per_kind):
            value = draw(r)
            line = r.choice(contexts or ANYWHERE).format(value)
            code = f"def main(count):\n    return count + {number}\n\n{line}\n"
            yield Planted(kind, value, code, code + f"print(main({number}))\n")
