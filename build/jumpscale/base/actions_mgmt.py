from aysfs.build.actions import ActionsBase


class Actions(ActionsBase):
    """Publishes the scripts that lie beside this file."""

    def build(self, service):
        service.copyFiles("files", "/opt/jumpscale8")
        service.upload2AYSfs("/opt/jumpscale8")
