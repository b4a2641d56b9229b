"""The style sheet of the HTML report: light and dark as the reader's system asks, and narrow screens."""

CSS = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#22262b;--soft:#68707a;--rule:#e4e5e2;
--accent:#2f6690;--heat:47 102 144;--good:#22794a;--good-soft:#e6f3ea;--bad-soft:#f3f3f1;
--s0:#2f6690;--s1:#d1742b;--s2:#3c8c5c;--s3:#94519c}
@media(prefers-color-scheme:dark){:root{--page:#16181b;--card:#1e2125;--ink:#e3e5e7;--soft:#969da6;
--rule:#30343a;--accent:#7fb2dd;--heat:95 160 215;--good:#6cc793;--good-soft:#1d3527;--bad-soft:#272a2f;
--s0:#7fb2dd;--s1:#eba064;--s2:#7ccb9a;--s3:#cb98d3}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;font-weight:650;letter-spacing:-.01em;margin:0 0 .4rem;
overflow-wrap:anywhere}
h2{font-size:1.2rem;font-weight:650;margin:3rem 0 1rem;padding-top:1.1rem;border-top:1px solid var(--rule);
overflow-wrap:anywhere}
h3{font-size:1rem;font-weight:600;margin:1.8rem 0 .1rem}
h2+h3{margin-top:0}
h2::first-letter,nav a::first-letter{text-transform:uppercase}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.9rem}
a{color:var(--accent);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
.note{color:var(--soft);font-size:.875rem;margin:0 0 .8rem}
.facts{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;margin:1.6rem 0 0}
.facts div{display:flex;flex-direction:column-reverse}
.facts dt{color:var(--soft);font-size:.8rem}
.facts dd{margin:0;font-size:1.45rem;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,25rem),1fr));gap:1rem}
.card,.chart,.row{background:var(--card);border:1px solid var(--rule);border-radius:10px;min-width:0}
.card{padding:.9rem 1.1rem 1rem}
.card h3{margin:0 0 .5rem;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.875rem}
.results{columns:25rem 2;column-gap:1rem}
.results .card{break-inside:avoid;margin-bottom:1rem}
.results td,.results th{padding:.22rem 0;text-align:left;font-weight:400}
.results thead th{color:var(--soft);font-size:.75rem}
.results td.num,.results th.num{text-align:right;font-variant-numeric:tabular-nums;padding-left:.8rem;
white-space:nowrap}
.results td.num b{font-weight:600}
.results td.soft{color:var(--soft)}
.results td.bar{width:20%;padding-left:.8rem}
.bar i{display:block;height:6px;border-radius:3px;background:var(--rule);overflow:hidden}
.bar i i{border-radius:0;background:var(--accent)}
.chart{margin:0;padding:.8rem .9rem .4rem}
.chart figcaption{font-size:.875rem;font-weight:600;margin-bottom:.3rem}
.chart .unit{color:var(--soft);font-weight:400}
.chart svg{display:block;width:100%;height:auto}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:0 1rem;margin:.1rem 0 0;padding:0;font-size:.78rem;
font-weight:400;color:var(--soft)}
.legend b{font-weight:500;color:var(--ink);font-variant-numeric:tabular-nums;white-space:nowrap}
.chart .swatch{display:inline-block;width:18px;height:8px;margin-right:.3rem}
.grid{stroke:var(--rule);fill:none}
.axis{stroke:var(--soft);stroke-opacity:.6;fill:none}
.tick{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.line.s0,.line.s4{stroke:var(--s0)}.line.s1,.line.s5{stroke:var(--s1)}
.line.s2,.line.s6{stroke:var(--s2)}.line.s3,.line.s7{stroke:var(--s3)}
.line.s4,.line.s5,.line.s6,.line.s7{stroke-dasharray:5 4}
.dot.s0,.dot.s4{fill:var(--s0)}.dot.s1,.dot.s5{fill:var(--s1)}
.dot.s2,.dot.s6{fill:var(--s2)}.dot.s3,.dot.s7{fill:var(--s3)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:.7rem}
.row{padding:.8rem .9rem;display:flex;gap:.5rem 1rem;align-items:flex-start;
align-content:flex-start;flex-wrap:wrap}
.query .caption{font-weight:600}
.caption{overflow-wrap:anywhere}
.answer{flex:1 1 15rem;min-width:0}
.row:has(.tiles) .query{flex:1 0 100%}
.answer ol{list-style:none;margin:0;padding:0}
.pic{display:block;width:64px;height:64px;border-radius:6px;background:#fff center/contain no-repeat;
box-shadow:inset 0 0 0 1px rgb(0 0 0/.08);print-color-adjust:exact;-webkit-print-color-adjust:exact}
.tiles{display:flex;flex-wrap:wrap;gap:.3rem}
.tiles li{padding:3px;border:2px solid transparent;border-radius:9px;font-size:.75rem;line-height:1.3;
text-align:center}
.tiles .pic{width:58px;height:58px;margin-bottom:2px}
.tiles li.right{border-color:var(--good);background:var(--good-soft)}
.lines li{display:flex;gap:.6rem;align-items:baseline;padding:.1rem .5rem;border:2px solid transparent;
border-radius:6px;font-size:.875rem;line-height:1.4}
.lines li .caption{flex:1;min-width:0}
.lines li.right{border-color:var(--good);background:var(--good-soft)}
.mark{color:var(--good);font-weight:600;font-size:.75rem;white-space:nowrap}
.tiles .mark{display:block}
.score{color:var(--soft);font-variant-numeric:tabular-nums;font-size:.78rem}
.truth{display:flex;gap:.6rem;align-items:center;margin-top:.5rem;font-size:.875rem;padding:0 .5rem}
.truth>span:first-child{color:var(--soft);font-size:.78rem;white-space:nowrap}
.truth .pic{width:40px;height:40px}
.scroll{width:fit-content;max-width:100%;overflow-x:auto;
background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:.8rem}
.heat{width:auto;border-collapse:separate;border-spacing:2px;font-size:.68rem}
.heat thead th{vertical-align:bottom;font-weight:400;padding:0 0 .3rem}
.heat thead span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:8.2rem;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap;display:inline-block;font-size:.75rem}
.heat td,.heat thead th{min-width:34px;width:34px;text-align:center}
.heat tbody td{height:34px;border-radius:4px;background:rgb(var(--heat)/var(--v));
font-variant-numeric:tabular-nums}
.heat .deep{color:var(--card);font-weight:600}
.heat .own{outline:2px solid var(--ink);outline-offset:-2px}
.heat .pic{width:34px;height:34px;border-radius:4px}
.heat tbody th{position:sticky;left:0;padding:0}
.heat tbody th.name{padding-right:.5rem;text-align:right;font-weight:400;font-size:.75rem;white-space:nowrap;
background:var(--card)}
.square{max-width:20rem}
.bin{fill:rgb(var(--heat)/var(--v))}
.pairs th,.pairs td{text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;font-weight:400;
border-top:1px solid var(--rule);overflow-wrap:anywhere}
.pairs tr:first-child>*{border-top:0}
.pairs th{color:var(--soft);width:11rem}
.licences{padding-left:1.1rem;overflow-wrap:anywhere;font-size:.875rem}
summary{cursor:pointer;color:var(--accent)}
pre{overflow-x:auto;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:1rem}
@media(max-width:520px){main{padding:1.5rem 1rem 3rem}.pairs th{width:7rem}
.tiles{gap:.15rem}.tiles li{padding:2px}.row{padding:.7rem}}
"""
