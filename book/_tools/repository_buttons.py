"""A Sphinx extension: the pages' buttons lead to the repository; without a public address there are none."""


def follow_address(app, config) -> None:
    theme = config.html_theme_options
    if theme.get("repository_url"):
        theme.update(use_repository_button=True, use_issues_button=True)
    else:
        theme.pop("launch_buttons", None)


def setup(app) -> dict:
    app.connect("config-inited", follow_address)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
