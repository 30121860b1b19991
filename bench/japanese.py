"""The Japanese of docs/five-paths.ja.md, by the English that the generators use."""

# ruff: noqa: RUF001 - full-width parentheses are what Japanese has

from __future__ import annotations

JAPANESE = {
    "user space": "ユーザー空間",
    "kernel": "カーネル",
    "the guest": "ゲスト",
    "e1000 driver": "e1000 ドライバー",
    "virtio-net driver": "virtio-net ドライバー",
    "guest memory": "ゲストのメモリー",
    "rings and buffers": "リングとバッファー",
    "its buffers": "自分のバッファー",
    "over libpcap": "libpcap 経由",
    "e1000, emulated": "仮想 e1000",
    "QEMU's buffer": "QEMU のバッファー",
    "packet socket": "パケットソケット",
    "and its ring": "とそのリング",
    "queue of skbs": "skb のキュー",
    "kernel thread": "カーネルスレッド",
    "off the packet's way": "パケットは通らない",
    "ioctl: rings, memory, eventfds": "ioctl: リング、メモリー、eventfd",
    "vhost-user socket": "vhost-user ソケット",
    "rings, memory, eventfds": "リング、メモリー、eventfd",
    "guest → App1": "ゲスト → App1",
    "App1 → guest": "App1 → ゲスト",
    "copies: {}": "コピー {} 回",
    "frames/s": "フレーム/秒",
    "round trip": "往復",
    "outer guest": "外側ゲスト内",
    "this host": "このホスト",
    "not recorded": "記録なし",
    "Seconds behind a name: CPU time per million frames, guest → App1, {}":
    "名前の後の秒数: 百万フレーム当たりの CPU 時間、ゲスト → App1、{}",
    "maps the guest's memory": "ゲストのメモリーをマップ",
    "path": "経路",
    "where": "場所",
    "direction": "方向",
    "there and back": "往復（折り返し）",
    "Gbit/s": "Gbit/秒",
    "lost": "損失",
    "QEMU: vCPU": "QEMU: vCPU",
    "QEMU: rest": "QEMU: その他",
    "vhost-net thread": "vhost-net スレッド",
    "round trip, median / 99 %": "往復時間、中央値 / 99 %",
    "Frames per second, each direction; logarithmic": "各方向のフレーム/秒（対数目盛）",
    "The five paths": "五つの経路",
    "outer": "外側",
    "host": "ホスト",
    "Not recorded yet.": "まだ記録がありません。",
    "{} rounds, {} B frames, commit {}, {}, {}, {} CPUs": "{} 回、{} バイトのフレーム、コミット {}、{}、{}、CPU {} 個",
    "{}: path 5 carries {:.1f} times the frames of path 2 from the guest to App1 ({} rounds, {:.1f} to {:.1f})": (
        "{}: ゲストから App1 へのフレーム数は、経路 5 が経路 2 の {:.1f} 倍です（{} 回の中央値、{:.1f}〜{:.1f}）。"
    ),
    "{}: path 5 carries {:.1f} times the frames of path 2 from the guest to App1 ({} rounds, {:.1f} to {:.1f}), "
    "path 4 {:.1f} times": (
        "{}: ゲストから App1 へのフレーム数は、経路 5 が経路 2 の {:.1f} 倍です（{} 回の中央値、{:.1f}〜{:.1f}）。"
        "経路 4 は {:.1f} 倍です。"
    ),
}
