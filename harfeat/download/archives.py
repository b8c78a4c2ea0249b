"""Where the official archives are, and what is known of them beforehand.

The addresses are those that the authors' pages gave, as documentation that quotes them tells: torchvision's and
tensorflow_datasets' UCF101, mmaction2's and OpenCV's HMDB51, and users' scripts for UCF11 (looked up in stored
copies; the hosts themselves were not reachable where this was written, so no address was tried).

No author publishes a hash. The one known beforehand is that of UCF101's lists, from tensorflow_datasets
(url_checksums/ucf101.txt). For the others the hash of the first download is noted in DIR/archives/state.json; what
vouches for a download is then the server's size and ETag, and the checksum of every file inside the archive.

An archive unpacks into one folder:

    ucf11    UCF11_updated_mpg.rar   UCF11_updated_mpg/<class>/v_<prefix>_<group>/...mpg
    ucf101   UCF101.rar              UCF-101/<Class>/...avi
             UCF101TrainTestSplits-RecognitionTask.zip   ucfTrainTestlist/trainlist01.txt ...
    hmdb51   hmdb51_org.rar          51 archives <class>.rar, each a folder <class>/...avi
             test_train_splits.rar   testTrainMulti_7030_splits/<class>_test_split1.txt ...
"""

from __future__ import annotations

from dataclasses import dataclass

_LISTS = 64 << 20
_VIDEOS = 32 << 30


@dataclass(frozen=True)
class Archive:
    """One official archive.

    `folder` is the one it unpacks into. `nested` archives hold an archive a class. `limit` bounds the bytes of the
    archive, and of what it unpacks to.
    """

    name: str
    url: str
    folder: str
    bytes: int | None = None
    sha256: str | None = None
    nested: bool = False
    limit: int = _VIDEOS


@dataclass(frozen=True)
class DatasetArchives:
    """The archives of a data set: videos, and lists where there are any; `page` is the authors' own."""

    page: str
    videos: Archive
    lists: Archive | None = None

    @property
    def all(self) -> tuple[Archive, ...]:
        """Lists first: they are small, and show early whether the host is there."""
        return (self.videos,) if self.lists is None else (self.lists, self.videos)


_UCF = "https://www.crcv.ucf.edu/data"
_HMDB = "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"

ARCHIVES: dict[str, DatasetArchives] = {
    "ucf11": DatasetArchives(
        "https://www.crcv.ucf.edu/data/UCF_YouTube_Action.php",
        Archive("UCF11_updated_mpg.rar", f"{_UCF}/UCF11_updated_mpg.rar", "UCF11_updated_mpg"),
    ),
    "hmdb51": DatasetArchives(
        "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        Archive("hmdb51_org.rar", f"{_HMDB}/hmdb51_org.rar", "hmdb51_org", nested=True),
        Archive(
            "test_train_splits.rar", f"{_HMDB}/test_train_splits.rar", "testTrainMulti_7030_splits", limit=_LISTS
        ),
    ),
    "ucf101": DatasetArchives(
        "https://www.crcv.ucf.edu/data/UCF101.php",
        Archive("UCF101.rar", f"{_UCF}/UCF101/UCF101.rar", "UCF-101"),
        Archive(
            "UCF101TrainTestSplits-RecognitionTask.zip",
            f"{_UCF}/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            "ucfTrainTestlist",
            bytes=113_943,
            sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            limit=_LISTS,
        ),
    ),
}
