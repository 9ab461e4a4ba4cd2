"""What a service may take in, where it keeps things, and which model answers."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipelines.prediction.media_faces import PredictConfig

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ServingConfig(BaseModel):
    """Settings of `counterforge serve`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    model: str = Field(default="champion", description="alias, which is followed; or a version or a folder")
    shadow: str | None = Field(default=None, description="alias of a model that is scored and logged, never answered")
    mlruns: Path = Path("mlruns")
    data: Path = Field(default=Path("serving-data"), description="folder of jobs, feedback, keys and kept uploads")
    database: str | None = Field(
        default=None, description="address of a PostgreSQL database that replicas share; SQLite in the folder without"
    )
    max_upload_mb: float = Field(default=200, gt=0, description="of one file")
    max_batch_mb: float = Field(default=1000, gt=0, description="of all files of a batch together")
    max_batch_files: int = Field(default=1000, ge=1, le=1000)
    max_pixels: int = Field(default=50_000_000, ge=1, description="of a picture or a frame")
    max_seconds: float = Field(default=600, gt=0, description="of a video")
    deadline_seconds: float = Field(default=120, gt=0, description="for decoding and face detection of one file")
    workers: int = Field(default=2, ge=1, description="processes that decode and detect faces")
    queue: int = Field(default=64, ge=1, description="requests at once; more get 503 with Retry-After")
    requests_per_minute: int = Field(default=300, ge=1, description="of one key, or of one address without keys")
    keep_minutes: float = Field(default=15, ge=0, description="how long an upload is kept after its answer")
    batch_window_ms: float = Field(default=4, ge=0, description="how long faces wait for those of other requests")
    poll_seconds: float = Field(default=2, gt=0, description="between two looks at the registry")
    device: str = "auto"
    predict: PredictConfig = PredictConfig()

    @property
    def open_to_others(self) -> bool:
        """Whether other machines reach it, so that it needs keys."""
        return self.host not in LOOPBACK
