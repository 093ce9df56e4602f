"""The section dask."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.workflow.sections.values import Section


class Dask(Section):
    """Where the blocks of images are read and filled."""

    scheduler: Annotated[str, Field(pattern=r"^[a-z]+://[\w.:/\[\]-]+$")] | None = None
    """address of the scheduler of a Dask cluster, such as tcp://host:8786, whose workers see all
    files under the same paths (docs/guide/dask.md); null: threads of this machine
    """
