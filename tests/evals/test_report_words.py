"""What metrics are called in the HTML report, and which of them are shares."""

from mmjax.evals.report_words import is_rate, words


def test_metrics_are_shown_in_words():
    found = {
        "lp_acc1": "linear probe top-1",
        "lp_val_acc1": "linear probe validation top-1",
        "probe_l2": "linear probe regulariser",
        "fs_4_acc1": "4 of each class, top-1",
        "fs_4_std": "4 of each class, deviation",
        "zs_mpcr": "zero-shot mean class recall",
        "zs_acc1_clean": "zero-shot top-1 clean",
        "knn_f1_macro": "nearest neighbours F1 macro",
        "cls_acc1": "classifier top-1",
        "cls_mpcr": "classifier mean class recall",
        "cls_roc_auc": "classifier ROC AUC",
        "itm_acc": "matching accuracy",
        "itm_i2t_r1_before": "picture → caption, R@1 before matching",
        "itm_t2i_r5": "caption → picture, R@5 after matching",
    }
    assert {metric: words(metric) for metric in found} == found


def test_names_that_nobody_knows_stay_as_they_are():
    assert words("winoground_text") == "winoground text" and words("binding") == "binding"


def test_only_shares_are_rates():
    rates = ("cls_acc1", "i2t_r1", "binding", "zs_acc1_noise", "itm_acc")
    others = (
        "lp_l2",
        "probe_l2_float32",
        "gap",
        "best_alpha",
        "fs_4_std",
        "i2t_medr",
        "rank_image",
        "alignment",
    )
    assert all(is_rate(metric, value) for metric in rates for value in (0.0, 0.5, 1.0))
    assert not any(is_rate(metric, 0.5) for metric in others)
    assert not is_rate("cls_acc1", 1.5) and not is_rate("rel_cosine", -0.1)
    assert not is_rate("cls_acc1", float("nan"))
