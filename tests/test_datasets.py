"""Reading data sets: whole official trees made from their lists as empty files, and what goes wrong."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from harfeat.datasets import REGISTRY, Dataset, DatasetOptions, load_dataset
from harfeat.errors import InputError
from harfeat.splits import TEST, TRAIN, UNUSED

ROLE_OF_LIST = {"train": TRAIN, "test": TEST}


def make_files(root: Path, names: Iterable[str]) -> Path:
    """Make empty files below `root`, as an archive would unpack."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names_of(dataset: Dataset) -> list[str]:
    return [clip.name for clip in dataset.clips]


def roles_of(dataset: Dataset, split: str) -> dict[str, int]:
    (found,) = (candidate for candidate in dataset.splits if candidate.name == split)
    return dict(zip(names_of(dataset), found.roles.tolist(), strict=True))


def refusal(name: str, root: Path, options: DatasetOptions | None = None) -> str:
    """Return the one line that tells the user what is wrong."""
    with pytest.raises(InputError) as caught:
        load_dataset(name, root, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="session")
def ucf101_lists(shared_data: Path) -> Path:
    return shared_data / "splits" / "ucfTrainTestlist"


@pytest.fixture(scope="session")
def hmdb51_lists(shared_data: Path) -> Path:
    return shared_data / "splits" / "testTrainMulti_7030_splits"


@pytest.fixture(scope="session")
def ucf101_official(ucf101_lists: Path) -> dict[str, dict[str, int]]:
    """Roles by split and clip name, straight from the lists."""
    return {
        str(k): {
            line.split()[0]: role
            for kind, role in ROLE_OF_LIST.items()
            for line in (ucf101_lists / f"{kind}list0{k}.txt").read_text().splitlines()
        }
        for k in (1, 2, 3)
    }


@pytest.fixture(scope="session")
def hmdb51_official(hmdb51_lists: Path) -> dict[str, dict[str, int]]:
    """Roles by split and clip name, straight from the lists."""
    return {
        str(k): {
            f"{path.name.removesuffix(f'_test_split{k}.txt')}/{line.split(' ')[0]}": int(line.split(" ")[1])
            for path in hmdb51_lists.glob(f"*_test_split{k}.txt")
            for line in path.read_text().splitlines()
        }
        for k in (1, 2, 3)
    }


@pytest.fixture(scope="session")
def ucf101_tree(ucf101_official: dict[str, dict[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("ucf101") / "UCF-101", ucf101_official["1"])


@pytest.fixture(scope="session")
def hmdb51_tree(hmdb51_official: dict[str, dict[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("hmdb51") / "hmdb51_org", hmdb51_official["1"])


@pytest.fixture(scope="session")
def ucf11_names(shared_data: Path) -> list[str]:
    return (shared_data / "splits" / "ucf11" / "clips.txt").read_text().split()


@pytest.fixture(scope="session")
def ucf11_tree(ucf11_names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive with its Annotation folders and the droppings of a Mac and a Windows machine."""
    root = make_files(tmp_path_factory.mktemp("ucf11") / "UCF11_updated_mpg", ucf11_names)
    group_folders = {str(Path(name).parent) for name in ucf11_names}
    make_files(root, (f"{folder}/Annotation/{Path(folder).name}_01.xgtf" for folder in group_folders))
    make_files(root, (f"{folder}/.DS_Store" for folder in group_folders))
    make_files(root, (f"{Path(name).parent}/._{Path(name).name}" for name in ucf11_names[:20]))
    make_files(root, ["biking/Annotation/v_biking_01_01.mpg", "biking/Thumbs.db", "readme.txt", "__MACOSX/x.mpg"])
    return root


def test_whole_ucf101_equals_the_official_lists_in_names_and_splits(
    ucf101_tree: Path, ucf101_official: dict[str, dict[str, int]]
) -> None:
    dataset = load_dataset("ucf101", ucf101_tree)
    assert names_of(dataset) == sorted(ucf101_official["1"])
    assert len(dataset.clips) == 13320
    for split, roles in ucf101_official.items():
        assert roles_of(dataset, split) == roles
    assert [split.leaking_groups for split in dataset.splits] == [0, 0, 0]
    assert dataset.notes == ()
    assert all(clip.path == ucf101_tree / clip.name for clip in dataset.clips)


def test_ucf101_labels_are_the_indices_of_the_official_train_lists(ucf101_tree: Path, ucf101_lists: Path) -> None:
    dataset = load_dataset("ucf101", ucf101_tree)
    lines = (ucf101_lists / "classInd.txt").read_text().split("\n")
    assert dataset.classes == tuple(line.split()[1] for line in lines if line)
    label = {clip.name: clip.label for clip in dataset.clips}
    for line in (ucf101_lists / "trainlist01.txt").read_text().split("\n"):
        if line:
            name, number = line.split()
            assert label[name] == int(number) - 1


def test_ucf101_groups_are_25_source_videos_a_class(ucf101_tree: Path) -> None:
    dataset = load_dataset("ucf101", ucf101_tree)
    groups = {(clip.label, clip.group) for clip in dataset.clips}
    assert Counter(label for label, _ in groups) == dict.fromkeys(range(101), 25)
    assert len({group for _, group in groups}) == 2525
    assert all(clip.name.split("/")[1].startswith(f"{clip.group}_c") for clip in dataset.clips)


def test_ucf101_lists_given_are_compared_and_leave_the_splits_as_they_are(
    ucf101_tree: Path, ucf101_lists: Path, ucf101_official: dict[str, dict[str, int]]
) -> None:
    dataset = load_dataset("ucf101", ucf101_tree, DatasetOptions(splits_dir=ucf101_lists))
    for split, roles in ucf101_official.items():
        assert roles_of(dataset, split) == roles
    assert all("equal" in split.rule for split in dataset.splits)


def test_ucf101_lists_that_differ_are_refused_naming_the_first_clip(
    ucf101_tree: Path, ucf101_lists: Path, tmp_path: Path
) -> None:
    lists = shutil.copytree(ucf101_lists, tmp_path / "lists")
    for name in os.listdir(lists):
        (lists / name).chmod(0o644)
    moved = "YoYo/v_YoYo_g01_c01.avi"
    test, train = lists / "testlist01.txt", lists / "trainlist01.txt"
    test.write_text(test.read_text().replace(f"{moved}\n", ""))
    assert f"do not have {moved}" in refusal("ucf101", ucf101_tree, DatasetOptions(splits_dir=lists))
    train.write_text(f"{train.read_text()}{moved} 101\n")
    text = refusal("ucf101", ucf101_tree, DatasetOptions(splits_dir=lists))
    assert f"{moved} is in the train list of split 1" in text
    test.write_text(f"{test.read_text()}{moved}\n")
    text = refusal("ucf101", ucf101_tree, DatasetOptions(splits_dir=lists))
    assert f"{moved} is listed twice in split 1" in text
    train.unlink()
    assert "trainlist01.txt: cannot read" in refusal("ucf101", ucf101_tree, DatasetOptions(splits_dir=lists))


@pytest.mark.parametrize("folder", ["HandstandPushups", "HandStandPushups"])
@pytest.mark.parametrize("prefix", ["v_HandstandPushups", "v_HandStandPushups"])
def test_ucf101_handstand_pushups_get_their_official_name_in_every_spelling(
    folder: str, prefix: str, tmp_path: Path
) -> None:
    dataset = load_dataset("ucf101", make_files(tmp_path, [f"{folder}/{prefix}_g01_c02.AVI"]))
    (clip,) = dataset.clips
    assert clip.name == "HandstandPushups/v_HandStandPushups_g01_c02.avi"
    assert clip.group == "v_HandStandPushups_g01"
    assert dataset.classes[clip.label] == "HandstandPushups"
    assert clip.path == tmp_path / folder / f"{prefix}_g01_c02.AVI"


def test_a_clip_that_is_there_in_two_spellings_is_refused(tmp_path: Path) -> None:
    root = make_files(
        tmp_path,
        [f"{name}/v_HandStandPushups_g01_c01.avi" for name in ("HandstandPushups", "HandStandPushups")],
    )
    text = refusal("ucf101", root)
    assert "are the same clip" in text
    assert "HandstandPushups" in text
    assert "HandStandPushups" in text


@pytest.mark.parametrize(
    "foreign",
    [
        "Archery/v_Biking_g01_c01.avi",
        "Archery/v_Archery_g26_c01.avi",
        "Archery/v_Archery_g00_c01.avi",
        "Archery/v_Archery_g01_c01.mp4",
        "Archery/v_Archery_g01_c01 (1).avi",
        "Archery/extra/v_Archery_g01_c02.avi",
    ],
)
def test_a_video_that_ucf101_does_not_know_is_refused_by_name(foreign: str, tmp_path: Path) -> None:
    text = refusal("ucf101", make_files(tmp_path, ["Archery/v_Archery_g01_c01.avi", foreign]))
    assert str(tmp_path / foreign) in text
    assert "--dataset folder" in text


def test_whole_hmdb51_equals_the_official_lists_in_names_and_splits(
    hmdb51_tree: Path, hmdb51_lists: Path, hmdb51_official: dict[str, dict[str, int]]
) -> None:
    dataset = load_dataset("hmdb51", hmdb51_tree, DatasetOptions(splits_dir=hmdb51_lists))
    assert len(dataset.clips) == 6766
    assert names_of(dataset) == sorted(hmdb51_official["1"])
    assert dataset.notes == ()
    for split, roles in hmdb51_official.items():
        assert roles_of(dataset, split) == roles
        assert Counter(roles.values()) == {TRAIN: 3570, TEST: 1530, UNUSED: 1666}
        for label in range(51):
            found = Counter(roles[clip.name] for clip in dataset.clips if clip.label == label)
            assert (found[TRAIN], found[TEST]) == (70, 30)


def test_hmdb51_groups_are_the_movies_of_a_class(hmdb51_tree: Path, hmdb51_lists: Path) -> None:
    dataset = load_dataset("hmdb51", hmdb51_tree, DatasetOptions(splits_dir=hmdb51_lists))
    group = {clip.name: clip.group for clip in dataset.clips}
    assert group["catch/Goalkeeper_Training_Day_#_2_catch_f_cm_np1_ba_bad_3.avi"] == (
        "Goalkeeper_Training_Day_#_2_catch"
    )
    assert group["cartwheel/Geena_und_die_Radschl_ge___;-)_cartwheel_f_cm_np1_le_med_3.avi"] == (
        "Geena_und_die_Radschl_ge___;-)_cartwheel"
    )
    assert group["run/metacafe_coolsoccer_run_f_cm_np10_le_bad_2.avi"] == "metacafe_coolsoccer_run"
    labels: dict[str, set[int]] = {}
    for clip in dataset.clips:
        labels.setdefault(clip.group, set()).add(clip.label)
    assert max(map(len, labels.values())) == 1
    assert 1000 < len(labels) < 3000


def test_hmdb51_without_its_lists_is_told_how_to_get_them(hmdb51_tree: Path) -> None:
    text = refusal("hmdb51", hmdb51_tree)
    assert "test_train_splits.rar" in text
    assert "--splits DIR" in text


def test_lists_are_found_in_the_folder_their_archive_unpacks_to(
    hmdb51_tree: Path, hmdb51_lists: Path, ucf101_tree: Path, ucf101_lists: Path
) -> None:
    both = hmdb51_lists.parent
    assert ucf101_lists.parent == both
    assert len(load_dataset("hmdb51", hmdb51_tree, DatasetOptions(splits_dir=both)).splits) == 3
    assert len(load_dataset("ucf101", ucf101_tree, DatasetOptions(splits_dir=both)).splits) == 3
    text = refusal("hmdb51", hmdb51_tree, DatasetOptions(splits_dir=ucf101_lists))
    assert "expected the official HMDB51 lists" in text


def test_hmdb51_lists_are_read_with_any_line_ends_and_a_byte_order_mark(
    hmdb51_tree: Path, hmdb51_lists: Path, hmdb51_official: dict[str, dict[str, int]], tmp_path: Path
) -> None:
    for path in hmdb51_lists.iterdir():
        text = path.read_text().replace("\n", "\r\n")
        (tmp_path / path.name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    dataset = load_dataset("hmdb51", hmdb51_tree, DatasetOptions(splits_dir=tmp_path))
    assert {name: roles_of(dataset, name) for name in "123"} == hmdb51_official


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a_wave_f_nm_np1_fr_med_0.avi 3\n", "expected '<file name> <0, 1 or 2>'"),
        (b"a_wave_f_nm_np1_fr_med_0.avi\n", "expected '<file name> <0, 1 or 2>'"),
        (b"a_wave_f_nm_np1_fr_med_0.avi 1\na_wave_f_nm_np1_fr_med_0.avi 2\n", "is listed twice"),
        (b"\xff\xfe\n", "no UTF-8 text"),
        (None, "cannot read this official list"),
    ],
)
def test_broken_hmdb51_lists_are_refused_naming_the_file(
    content: bytes | None, message: str, hmdb51_lists: Path, tmp_path: Path
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in hmdb51_lists.glob("*_test_split1.txt"):
        (lists / path.name).write_bytes(path.read_bytes())
    broken = lists / "wave_test_split1.txt"
    broken.unlink() if content is None else broken.write_bytes(content)
    root = make_files(tmp_path / "root", ["wave/a_wave_f_nm_np1_fr_med_0.avi"])
    text = refusal("hmdb51", root, DatasetOptions(splits_dir=lists))
    assert text.startswith(f"{broken}: ")
    assert message in text


def test_hmdb51_clip_that_no_list_has_is_refused_by_name(hmdb51_lists: Path, tmp_path: Path) -> None:
    root = make_files(tmp_path, ["wave/Mine_wave_f_nm_np1_fr_med_0.avi"])
    text = refusal("hmdb51", root, DatasetOptions(splits_dir=hmdb51_lists))
    assert "Mine_wave_f_nm_np1_fr_med_0.avi: the lists of split 1" in text


def test_whole_ucf11_is_read_past_annotations_and_droppings(ucf11_tree: Path, ucf11_names: list[str]) -> None:
    dataset = load_dataset("ucf11", ucf11_tree)
    assert names_of(dataset) == sorted(ucf11_names)
    assert len(dataset.clips) == 1600
    assert dataset.notes == ()
    assert dataset.classes == tuple(sorted({name.split("/")[0] for name in ucf11_names}))
    for clip in dataset.clips:
        class_name, group, _ = clip.name.split("/")
        assert (dataset.classes[clip.label], clip.group) == (class_name, group)
    groups = {(clip.label, clip.group) for clip in dataset.clips}
    assert Counter(label for label, _ in groups) == dict.fromkeys(range(11), 25)


def test_ucf11_splits_are_60_to_40_in_every_class_and_only_random_leaks(ucf11_tree: Path) -> None:
    dataset = load_dataset("ucf11", ucf11_tree, DatasetOptions(split_seed=5))
    random, group = dataset.splits
    assert (random.name, group.name) == ("random", "group")
    assert (random.seed, group.seed) == (5, 5)
    assert random.leaking_groups > 200
    assert group.leaking_groups == 0
    for split in dataset.splits:
        for label in range(11):
            roles = [role for role, clip in zip(split.roles, dataset.clips, strict=True) if clip.label == label]
            assert abs(roles.count(TRAIN) - 0.6 * len(roles)) <= 0.5


def test_ucf11_takes_the_avi_edition_and_upper_case_suffixes(tmp_path: Path) -> None:
    names = ["biking/v_biking_01/v_biking_01_01.avi", "biking/v_biking_02/v_biking_02_01.MPG"]
    dataset = load_dataset("ucf11", make_files(tmp_path, names))
    assert names_of(dataset) == names
    assert [clip.group for clip in dataset.clips] == ["v_biking_01", "v_biking_02"]


def test_ucf11_refuses_one_clip_in_two_formats_and_one_group_folder_in_two_classes(tmp_path: Path) -> None:
    name = "biking/v_biking_01/v_biking_01_01"
    root = make_files(tmp_path / "formats", [f"{name}.avi", f"{name}.mpg"])
    assert "are the same clip" in refusal("ucf11", root)
    root = make_files(tmp_path / "classes", [f"{name}.mpg", "diving/v_biking_01/v_biking_01_02.mpg"])
    assert "a group folder's name belongs to one class" in refusal("ucf11", root)


def test_genuine_clips_are_read_in_their_official_layouts(shared_data: Path, hmdb51_lists: Path) -> None:
    clips = shared_data / "clips"
    ucf101 = load_dataset("ucf101", clips / "UCF-101")
    assert names_of(ucf101) == [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
    ]
    assert ucf101.notes == ("2 of 101 classes, 2 of 13320 clips present",)
    assert [clip.label for clip in ucf101.clips] == [0, 83]
    assert [split.roles.tolist() for split in ucf101.splits] == [
        [TEST, TRAIN],
        [TRAIN, TRAIN],
        [TRAIN, TRAIN],
    ]

    hmdb51 = load_dataset("hmdb51", clips / "hmdb51", DatasetOptions(splits_dir=hmdb51_lists))
    assert [clip.group for clip in hmdb51.clips] == ["RATRACE_wave", "SchoolRulesHowTheyHelpUs_wave"]
    assert hmdb51.notes == ("1 of 51 classes, 2 of 6766 clips present",)
    assert {clip.label for clip in hmdb51.clips} == {50}

    ucf11 = load_dataset("ucf11", clips / "UCF11_updated_mpg")
    assert names_of(ucf11) == ["biking/v_biking_01/v_biking_01_01.mpg"]
    assert ucf11.notes == ("1 of 11 classes, 1 of 1600 clips present",)
    assert [split.name for split in ucf11.splits] == ["random"]
    assert "no group split: all clips are of one group" in ucf11.splits[0].rule


def test_subjects_of_utd_mhad_are_divided_by_list_and_by_seed(shared_data: Path) -> None:
    options = DatasetOptions(group_pattern=r"_s(\d+)_t", test_groups=("2", "4", "6", "8"))
    dataset = load_dataset("folder", shared_data / "utd_mhad_depth", options)
    assert len(dataset.clips) == 446
    assert len(dataset.classes) == 14
    random, group, listed = dataset.splits
    assert (random.name, group.name, listed.name) == ("random", "group", "listed")
    assert random.leaking_groups == 8
    for clip, role in zip(dataset.clips, listed.roles, strict=True):
        assert role == (TEST if int(clip.name.split("_s")[-1][0]) % 2 == 0 else TRAIN)
    assert (listed.roles == TEST).sum() == 222
    training = {clip.group for clip, role in zip(dataset.clips, group.roles, strict=True) if role == TRAIN}
    assert len(training) == 5
    assert group.leaking_groups == 0


def test_the_folder_above_an_unpacked_archive_will_do(ucf11_tree: Path) -> None:
    dataset = load_dataset("ucf11", ucf11_tree.parent)
    assert len(dataset.clips) == 1600
    assert dataset.root == ucf11_tree
    assert dataset.notes == (f"class folders read from {ucf11_tree}",)


def test_two_copies_below_the_root_are_refused_by_name(tmp_path: Path) -> None:
    make_files(tmp_path, [f"{part}/Archery/v_Archery_g01_c01.avi" for part in ("train", "val")])
    assert "several subfolders have it (train, val)" in refusal("ucf101", tmp_path)


@pytest.mark.parametrize("name", ["ucf11", "ucf101", "hmdb51"])
def test_a_root_without_official_classes_is_told_the_layout(name: str, tmp_path: Path) -> None:
    root = make_files(tmp_path, ["cats/one.avi"])
    options = DatasetOptions(splits_dir=tmp_path) if name == "hmdb51" else None
    text = refusal(name, root, options)
    assert f"{root}: expected {name} class folders with clips like" in text


@pytest.mark.parametrize("name", ["ucf11", "ucf101", "hmdb51", "folder"])
def test_a_root_that_does_not_exist_is_named(name: str, tmp_path: Path) -> None:
    options = DatasetOptions(splits_dir=tmp_path) if name == "hmdb51" else None
    assert refusal(name, tmp_path / "gone", options) == f"{tmp_path / 'gone'}: no such folder"


def test_a_video_in_a_foreign_class_folder_is_refused_and_folder_is_offered(tmp_path: Path) -> None:
    make_files(tmp_path, ["Archery/v_Archery_g01_c01.avi", "docs/notes.txt"])
    assert len(load_dataset("ucf101", tmp_path).clips) == 1
    make_files(tmp_path, ["Cats/v_Cats_g01_c01.avi"])
    text = refusal("ucf101", tmp_path)
    assert "'Cats' is no class of ucf101" in text
    assert "--dataset folder" in text


def test_a_class_folder_without_video_is_noted(tmp_path: Path) -> None:
    make_files(tmp_path, ["Archery/v_Archery_g01_c01.avi", "Biking/Thumbs.db"])
    dataset = load_dataset("ucf101", tmp_path)
    assert dataset.notes == (
        "class folder Biking holds no video",
        "1 of 101 classes, 1 of 13320 clips present",
    )
    (tmp_path / "Archery" / "v_Archery_g01_c01.avi").unlink()
    assert "the class folders hold no video" in refusal("ucf101", tmp_path)


def test_folder_reads_videos_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    videos = ["run/b.MP4", "run/day 1/é#;.avi", "jump/a.mpg", "jump/x/y/z.webm"]
    rubbish = [
        "run/.DS_Store",
        "run/._b.MP4",
        "jump/Thumbs.db",
        "jump/a.txt",
        ".git/c.avi",
        "__MACOSX/run/b.mp4",
    ]
    make_files(tmp_path, [*videos, *rubbish, "empty/readme.md", "list.csv"])
    dataset = load_dataset("folder", tmp_path)
    assert names_of(dataset) == sorted(videos)
    assert dataset.classes == ("jump", "run")
    assert [clip.label for clip in dataset.clips] == [0, 0, 1, 1]
    assert [clip.group for clip in dataset.clips] == [""] * 4
    assert [clip.path for clip in dataset.clips] == [tmp_path / name for name in sorted(videos)]
    assert [split.name for split in dataset.splits] == ["random"]
    assert dataset.notes == ("folder empty holds no video and is no class",)


def test_clips_are_sorted_by_their_whole_name_also_across_class_folders(tmp_path: Path) -> None:
    dataset = load_dataset("folder", make_files(tmp_path, ["run/a.avi", "run-up/a.avi", "run/a/b.avi"]))
    assert names_of(dataset) == ["run-up/a.avi", "run/a.avi", "run/a/b.avi"]
    assert [dataset.classes[clip.label] for clip in dataset.clips] == ["run-up", "run", "run"]


def test_folder_does_not_depend_on_the_order_of_the_file_system(tmp_path: Path) -> None:
    names = [f"{label}/s{group}_{take}.avi" for label in "ab" for group in range(5) for take in range(3)]
    options = DatasetOptions(group_pattern=r"s\d")
    first = load_dataset("folder", make_files(tmp_path / "1", names), options)
    second = load_dataset("folder", make_files(tmp_path / "2", reversed(names)), options)
    assert names_of(first) == names_of(second)
    for one, two in zip(first.splits, second.splits, strict=True):
        assert one.roles.tolist() == two.roles.tolist()


@pytest.mark.parametrize(
    ("pattern", "groups"), [(r"p(\d)_", ["1", "2"]), (r"p\d", ["p1", "p2"]), (r"(?:a/)(p)(\d)", ["p", "p"])]
)
def test_folder_group_is_the_first_capture_or_the_whole_match(
    pattern: str, groups: list[str], tmp_path: Path
) -> None:
    root = make_files(tmp_path, ["a/p1_x.avi", "a/p2_x.avi"])
    dataset = load_dataset("folder", root, DatasetOptions(group_pattern=pattern))
    assert [clip.group for clip in dataset.clips] == groups


@pytest.mark.parametrize("pattern", [r"p(\d)_", r"x(y)?", r"q*"])
def test_folder_clip_without_a_group_is_named_beside_the_pattern(pattern: str, tmp_path: Path) -> None:
    root = make_files(tmp_path, ["a/x.avi"])
    text = refusal("folder", root, DatasetOptions(group_pattern=pattern))
    assert "'a/x.avi'" in text
    assert repr(pattern) in text


def test_folder_refuses_a_broken_pattern_and_an_unknown_test_group(tmp_path: Path) -> None:
    root = make_files(tmp_path, ["a/1.avi", "a/2.avi"])
    assert "is no regular expression" in refusal("folder", root, DatasetOptions(group_pattern="(s"))
    options = DatasetOptions(group_pattern=r"\d", test_groups=("3",))
    assert "test group '3' is not among the 2 groups of the clips (1, 2)" in refusal("folder", root, options)
    assert "--group-pattern" in refusal("folder", root, DatasetOptions(test_groups=("1",)))


def test_folder_refuses_a_root_without_video_and_a_video_outside_a_class(tmp_path: Path) -> None:
    assert "no video found" in refusal("folder", tmp_path)
    make_files(tmp_path, ["a/1.avi", "loose.mp4"])
    assert refusal("folder", tmp_path).startswith(f"{tmp_path / 'loose.mp4'}: this video lies in no class folder")


def test_folder_of_one_class_asks_whether_the_root_is_right(tmp_path: Path) -> None:
    root = make_files(tmp_path, ["UCF-101/Archery/a.avi", "UCF-101/Biking/b.avi"])
    (note,) = load_dataset("folder", root).notes
    assert "one class only (UCF-101)" in note


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    store = make_files(tmp_path / "store", ["deep/1.avi", "2.avi"])
    root = make_files(tmp_path / "root", ["b/3.avi"])
    (root / "a").symlink_to(store, target_is_directory=True)
    (root / "a" / "back").symlink_to(root, target_is_directory=True)
    (root / "b" / "self").symlink_to(root / "b", target_is_directory=True)
    (root / "b" / "knot.avi").symlink_to(root / "b" / "knot.avi")
    dataset = load_dataset("folder", root)
    assert names_of(dataset) == ["a/2.avi", "a/deep/1.avi", "b/3.avi", "b/knot.avi"]


def test_a_file_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    root = make_files(tmp_path, ["a/1.avi"])
    with open(os.fsencode(root / "a") + b"/\xff.avi", "wb"):
        pass
    assert r"'\udcff.avi': this file name is not valid UTF-8" in refusal("folder", root)


def test_an_option_that_a_data_set_does_not_use_is_refused(tmp_path: Path) -> None:
    text = refusal("ucf101", tmp_path, DatasetOptions(group_pattern="x"))
    assert text == "--group-pattern does not apply to ucf101 (only to folder); leave it out"
    assert "--splits does not apply to ucf11" in refusal("ucf11", tmp_path, DatasetOptions(splits_dir=tmp_path))
    assert "--test-groups does not apply" in refusal("hmdb51", tmp_path, DatasetOptions(test_groups=("1",)))


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    assert refusal("ucf50", tmp_path) == "unknown data set 'ucf50'; choose from ucf11, hmdb51, ucf101, folder"


def test_definitions_state_what_the_official_trees_hold(
    ucf11_tree: Path, ucf101_tree: Path, hmdb51_tree: Path, hmdb51_lists: Path
) -> None:
    for name, root in (("ucf11", ucf11_tree), ("ucf101", ucf101_tree), ("hmdb51", hmdb51_tree)):
        definition = REGISTRY[name]
        options = DatasetOptions(splits_dir=hmdb51_lists) if name == "hmdb51" else DatasetOptions()
        dataset = load_dataset(name, root, options)
        assert definition.name == dataset.name == name
        assert definition.class_count == len(dataset.classes)
        assert definition.clip_count == len(dataset.clips)
        assert definition.split_names == tuple(split.name for split in dataset.splits)
        assert "\n" not in definition.description
