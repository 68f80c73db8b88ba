"""Tokens that can be recognised by their form.

The forms are those that the issuers publish, and that gitleaks (MIT) and detect-secrets (Apache 2.0) look for; the
expressions are our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"[A-Za-z0-9$][A-Za-z0-9_.\-+/=:~$,]{14,1000}")
"""What could hold a token: long, and without a blank."""

_ALNUM = r"[A-Za-z0-9]"
_URLSAFE = r"[A-Za-z0-9_\-]"
_TOKEN_FORMS = {
    "AWS": r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[A-Z0-9]{12,}",
    "Alibaba": rf"LTAI{_ALNUM}{{12,}}",
    "Google": rf"AIza{_URLSAFE}{{30,}}|GOCSPX-{_URLSAFE}{{20,}}|ya29\.{_URLSAFE}{{20,}}|1//0{_URLSAFE}{{30,}}",
    "GitHub": rf"gh[pousr]_{_ALNUM}{{20,}}|github_pat_\w{{20,}}",
    "GitLab": rf"gl(?:pat|dt|rt|ptt|ft|soat|cbt|imt|agent|oas|ffct)-{_URLSAFE}{{16,}}|GR1348941{_URLSAFE}{{16,}}",
    "Slack": rf"xox[a-z](?:\.[a-z]+)?-{_URLSAFE}{{10,}}|xapp-\d-{_URLSAFE}{{10,}}"
    rf"|hooks\.slack\.com/(?:services|workflows|triggers)/{_ALNUM}[A-Za-z0-9/]{{16,}}",
    "Discord": rf"discord(?:app)?\.com/api/webhooks/\d+/{_URLSAFE}{{30,}}"
    rf"|[MNO]{_URLSAFE}{{22,27}}\.{_URLSAFE}{{6}}\.{_URLSAFE}{{25,}}",
    "Teams": rf"webhook\.office\.com/webhookb2/{_ALNUM}[\w\-@/]{{40,}}",
    "Telegram": rf"\d{{8,10}}:A{_URLSAFE}{{33,35}}",
    "Stripe": rf"(?:sk|rk|pk)_(?:live|test|prod)_{_ALNUM}{{10,}}|whsec_[A-Za-z0-9+/=]{{20,}}",
    "sk-": rf"sk-(?:live|test|prod|proj|ant|or|svcacct)-{_URLSAFE}{{8,}}|sk-(?={_URLSAFE}{{0,40}}\d){_URLSAFE}{{16,}}",
    "SendGrid": rf"SG\.{_URLSAFE}{{16,}}\.{_URLSAFE}{{16,}}",
    "Twilio": r"(?:SK|AC)[0-9a-f]{32}",
    "Mailgun": r"(?:key|pubkey)-[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}",
    "npm": rf"npm_{_ALNUM}{{30,}}|NpmToken\.[0-9a-f\-]{{30,}}",
    "PyPI": rf"pypi-AgE{_URLSAFE}{{30,}}|pypi-{_URLSAFE}{{50,}}",
    "RubyGems": r"rubygems_[0-9a-f]{40,}",
    "Hugging Face": rf"hf_{_ALNUM}{{24,}}|api_org_{_ALNUM}{{24,}}",
    "DigitalOcean": r"do[opr]_v1_[0-9a-f]{40,}",
    "Heroku": rf"HRKU-{_URLSAFE}{{20,}}",
    "Shopify": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{24,}",
    "Square": rf"sq0(?:atp|csp|idp)-{_URLSAFE}{{20,}}|EAAA{_URLSAFE}{{40,}}",
    "Databricks": r"dapi[0-9a-f]{32}(?:-\d)?",
    "Doppler": rf"dp\.(?:pt|st|ct|sa|scim|audit)\.{_ALNUM}{{30,}}",
    "Vault": rf"hv[sbr]\.{_URLSAFE}{{20,}}",
    "HashiCorp": rf"{_ALNUM}{{14}}\.atlasv1\.{_URLSAFE}{{30,}}",
    "Grafana": rf"gl(?:c|sa)_{_URLSAFE}{{30,}}|eyJrIjoi{_ALNUM}{{20,}}",
    "New Relic": rf"NR(?:AK|JS|II|RA|BR)-{_ALNUM}{{20,}}",
    "Supabase and others": r"sb(?:p|s|a)_[0-9a-f]{40}|sb_secret_\w{16,}",
    "PlanetScale": r"pscale_(?:tkn|pw|oauth)_[\w.\-]{30,}",
    "Age": r"AGE-SECRET-KEY-1[A-Z0-9]{50,}",
    "Atlassian": rf"ATATT3{_URLSAFE}{{30,}}|ATCTT3{_URLSAFE}{{30,}}|ATBB{_ALNUM}{{20,}}",
    "Figma": rf"fig[du]_{_URLSAFE}{{30,}}",
    "Airtable": rf"pat{_ALNUM}{{14}}\.[0-9a-f]{{64}}",
    "Linear and Notion": rf"lin_(?:api|oauth)_{_ALNUM}{{30,}}|ntn_{_ALNUM}{{30,}}|secret_{_ALNUM}{{40,}}",
    "Postman": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    "Docker": rf"dckr_(?:pat|oat)_{_URLSAFE}{{20,}}",
    "JFrog": rf"AKCp{_ALNUM}{{60,}}|cmVmdGtuOjAxOj{_URLSAFE}{{20,}}",
    "Sentry": rf"sntry[su]_{_URLSAFE}{{40,}}",
    "Pulumi": r"pul-[0-9a-f]{40}",
    "Fly": rf"fo1_{_URLSAFE}{{40,}}|fm[12][ar]?_[A-Za-z0-9+/=]{{60,}}",
    "Facebook": rf"EAA[MCG]{_ALNUM}{{40,}}",
    "Groq, Perplexity, Replicate": rf"gsk_{_ALNUM}{{30,}}|pplx-{_ALNUM}{{30,}}|r8_{_ALNUM}{{30,}}",
    "xAI and Tavily": rf"xai-{_ALNUM}{{40,}}|tvly-{_URLSAFE}{{20,}}",
    "PostHog and Resend": rf"phc_{_ALNUM}{{30,}}|phx_{_ALNUM}{{30,}}|re_{_ALNUM}{{8}}_{_ALNUM}{{20,}}",
    "Dropbox": rf"sl\.(?:u\.)?{_URLSAFE}{{60,}}",
    "JSON web token": rf"ey[JI]{_URLSAFE}{{10,}}\.ey{_URLSAFE}{{10,}}(?:\.{_URLSAFE}*)?",
    "password hash": r"\$(?:2[abxy]?|apr1|[156]|y|argon2(?:id|i|d))\$[A-Za-z0-9./$+,=]{16,}",
}
_TOKEN = re.compile("(?<![A-Za-z0-9])(?:" + "|".join(_TOKEN_FORMS.values()) + ")")
_TOKEN_REST = re.compile(r"[A-Za-z0-9_.\-+/=~]*")


def spans(text: str) -> Iterator[tuple[int, int]]:
    """The places of tokens in a text: start and end, in code points."""
    for word in _WORD.finditer(text):
        for token in _TOKEN.finditer(word[0]):
            end = word.start() + token.end()
            if token.end() == len(word[0]):  # the token may be longer than what was looked at
                rest = _TOKEN_REST.match(text, end)
                end = rest.end() if rest else end
            yield word.start() + token.start(), end
