"""Stock instructions for a draft, by kind and language; `{topic}` is filled when the draft is written."""

from __future__ import annotations

from mixtura.tasks.pool import Kind

WORDINGS: dict[str, dict[Kind, str]] = {
    "en": {
        "enhance": "Rewrite this request so that it is clear and complete. It is about: {topic}.",
        "extract": "Copy from the text what it says about: {topic}. Use its own words.",
        "standardise": "Rewrite this in the field's standard terms. It is about: {topic}.",
        "classify": "Say which class this belongs to. Decide by: {topic}.",
        "score": "Give this a score. Judge by: {topic}.",
        "advise": "Answer this question in full. It is about: {topic}.",
        "summarise": "Say in a few sentences what matters here. It is about: {topic}.",
        "free": "Do what is asked. It is about: {topic}.",
    },
    "es": {
        "enhance": "Reescriba esta petición para que sea clara y completa. Trata de: {topic}.",
        "extract": "Copie del texto lo que dice sobre: {topic}. Use sus mismas palabras.",
        "standardise": "Reescriba esto con los términos normalizados del campo. Trata de: {topic}.",
        "classify": "Diga a qué clase pertenece esto. Decida según: {topic}.",
        "score": "Dé una puntuación a esto. Juzgue según: {topic}.",
        "advise": "Responda a esta pregunta por completo. Trata de: {topic}.",
        "summarise": "Diga en pocas frases lo importante. Trata de: {topic}.",
        "free": "Haga lo que se pide. Trata de: {topic}.",
    },
    "fr": {
        "enhance": "Réécrivez cette demande pour qu'elle soit claire et complète. Sujet : {topic}.",
        "extract": "Recopiez du texte ce qu'il dit sur : {topic}. Gardez ses mots.",
        "standardise": "Réécrivez ceci dans les termes normalisés du domaine. Sujet : {topic}.",
        "classify": "Dites à quelle classe ceci appartient. Critère : {topic}.",
        "score": "Donnez une note à ceci. Critère : {topic}.",
        "advise": "Répondez complètement à cette question. Sujet : {topic}.",
        "summarise": "Dites en quelques phrases ce qui compte ici. Sujet : {topic}.",
        "free": "Faites ce qui est demandé. Sujet : {topic}.",
    },
    "de": {
        "enhance": "Formuliere diese Anfrage klar und vollständig. Thema: {topic}.",
        "extract": "Gib wörtlich wieder, was der Text dazu sagt: {topic}.",
        "standardise": "Drücke dies in den üblichen Fachbegriffen aus. Thema: {topic}.",
        "classify": "Nenne die Klasse, zu der dies gehört. Maßgeblich ist: {topic}.",
        "score": "Bewerte dies mit einer Zahl. Maßgeblich ist: {topic}.",
        "advise": "Beantworte diese Frage vollständig. Thema: {topic}.",
        "summarise": "Sage in wenigen Sätzen, worauf es hier ankommt. Thema: {topic}.",
        "free": "Tue, worum gebeten wird. Thema: {topic}.",
    },
    "zh": {
        "enhance": "请把这个问题改写得清楚而完整。主题：{topic}。",
        "extract": "请从原文中摘出与此有关的内容，照录原话：{topic}。",
        "standardise": "请用本领域的规范术语改写。主题：{topic}。",
        "classify": "请判断它属于哪一类。依据：{topic}。",
        "score": "请给它打分。依据：{topic}。",
        "advise": "请完整回答这个问题。主题：{topic}。",
        "summarise": "请用几句话说明要点。主题：{topic}。",
        "free": "请按要求完成。主题：{topic}。",
    },
}


def instructions(kind: Kind, topic: str, languages: list[str]) -> dict[str, list[str]]:
    """One stock wording in each language that has some; in English where none has."""
    known = [spoken for spoken in languages if spoken in WORDINGS] or ["en"]
    plain = topic.replace("{", "{{").replace("}", "}}")
    return {spoken: [WORDINGS[spoken][kind].replace("{topic}", plain)] for spoken in known}
