"""Names that stand for one another: places and their adjectives, acronyms, short forms of first names."""

from __future__ import annotations

from pipeline.rephrase.fidelity import lexicon as lex

_PLACES = """
afghanistan afghan afghans | albania albanian albanians | algeria algerian | argentina argentine argentinian
argentinians
| armenia armenian armenians | australia australian australians aussie aussies | austria austrian austrians
| azerbaijan azerbaijani azeri | bangladesh bangladeshi | belarus belarusian | belgium belgian belgians
| bolivia bolivian | bosnia bosnian | brazil brazilian brazilians | bulgaria bulgarian bulgarians | burma burmese
myanmar
| cambodia cambodian khmer | cameroon cameroonian | canada canadian canadians | chile chilean chileans
| china chinese prc | colombia colombian colombians | congo congolese | croatia croatian croat croats | cuba cuban
cubans
| cyprus cypriot | czech czechs czechia | denmark danish dane danes | ecuador ecuadorian | egypt egyptian egyptians
| england english englishman englishmen | estonia estonian | ethiopia ethiopian | europe european europeans eu
| finland finnish finn finns | france french frenchman frenchmen | georgia georgian | germany german germans
| ghana ghanaian | greece greek greeks hellenic | guatemala guatemalan | haiti haitian | hungary hungarian
hungarians magyar
| iceland icelandic icelander icelanders | india indian indians | indonesia indonesian indonesians
| iran iranian iranians persia persian persians | iraq iraqi iraqis | ireland irish irishman irishmen
| israel israeli israelis | italy italian italians | jamaica jamaican | japan japanese | jordan jordanian
| kazakhstan kazakh | kenya kenyan kenyans | korea korean koreans | kuwait kuwaiti | laos laotian lao
| latvia latvian latvians | lebanon lebanese | libya libyan | lithuania lithuanian lithuanians | malaysia malaysian
malay
| malta maltese | mexico mexican mexicans | moldova moldovan | mongolia mongolian mongol mongols | morocco moroccan
| nepal nepalese nepali | netherlands dutch holland dutchman | zealand kiwi zealander zealanders nz
| nigeria nigerian nigerians | niger nigerien | norway norwegian norwegians | pakistan pakistani pakistanis
| palestine palestinian palestinians | peru peruvian | philippines filipino filipinos philippine | poland polish
pole poles
| portugal portuguese | prussia prussian prussians | romania romanian romanians | russia russian russians
| soviet soviets ussr | rwanda rwandan | saudi saudis | scotland scottish scots scot scotsman | senegal senegalese
| serbia serbian serb serbs | singapore singaporean | slovakia slovak slovaks | slovenia slovenian slovene
| somalia somali | spain spanish spaniard spaniards | sudan sudanese | sweden swedish swede swedes
| switzerland swiss | syria syrian syrians | taiwan taiwanese | thailand thai thais siam siamese | tibet tibetan
tibetans
| tunisia tunisian | turkey turkish turk turks | uganda ugandan | ukraine ukrainian ukrainians
| britain british uk briton britons kingdom gb | america american americans us usa states united
| uruguay uruguayan | venezuela venezuelan | vietnam vietnamese viet | wales welsh welshman | yugoslavia yugoslav
| zimbabwe zimbabwean rhodesia | africa african africans | asia asian asians | rome roman romans | athens athenian
athenians
| sparta spartan spartans | venice venetian venetians | florence florentine | naples neapolitan | milan milanese
| paris parisian parisians | london londoner londoners | vienna viennese | moscow muscovite | byzantium byzantine
| norman normans normandy | viking vikings norse | aztec aztecs | inca incas incan | maya mayan mayans
| catholic catholics catholicism | protestant protestants protestantism | islam islamic muslim muslims moslem
| jew jews jewish judaism | christian christians christianity | buddhist buddhists buddhism buddha | hindu hindus
hinduism
| bavaria bavarian | catalonia catalan catalans | texas texan texans | california californian californians ca
| hawaii hawaiian | quebec quebecois | flanders flemish | brittany breton | saxony saxon saxons | sicily sicilian
| democrat democrats democratic | republican republicans gop | nazi nazis nazism | marxist marxism marx
| victoria victorian | elizabeth elizabethan | arctic antarctic antarctica | atlantic transatlantic | alps alpine
| mediterranean | baltic baltics | balkan balkans | scandinavia scandinavian | manhattan | ottoman ottomans
| czechoslovakia czechoslovak | argentina argentines | arab arabs arabia arabian arabic | latin
| nyc york ny | la angeles | dc washington | un nations | kgb | fbi | cia | nasa | nato | wwi wwii ww2 ww1
| covid coronavirus | television tv | dvd | internet | phd ph | mit | ucla | bbc | google | ai
"""
_CITIES = """
france: nice lyon marseille bordeaux toulouse strasbourg lille cannes paris normandy provence | spain: seville
madrid barcelona valencia granada bilbao malaga toledo catalonia | italy: rome milan naples venice florence turin
genoa bologna palermo sicily pisa | germany: berlin munich hamburg cologne frankfurt dresden leipzig stuttgart bonn
bremen bavaria saxony | austria: vienna graz salzburg linz innsbruck | ireland: dublin cork limerick galway |
britain: london edinburgh glasgow manchester liverpool birmingham leeds bristol oxford cambridge cardiff belfast
york | england: london manchester liverpool birmingham leeds bristol oxford cambridge york | scotland: edinburgh
glasgow aberdeen dundee | japan: tokyo osaka kyoto nagoya hiroshima nagasaki yokohama | china: beijing shanghai
guangzhou shenzhen wuhan nanjing | india: mumbai delhi kolkata calcutta bombay chennai bangalore | russia: moscow
petersburg leningrad kazan siberia | america: york chicago boston texas washington philadelphia detroit houston
dallas california florida denver seattle miami atlanta ohio louisiana omaha virginia | canada: toronto montreal
vancouver ottawa quebec ontario | australia: sydney melbourne brisbane perth queensland | egypt: cairo alexandria |
turkey: istanbul ankara | greece: athens thessaloniki crete | portugal: lisbon porto | netherlands: amsterdam
rotterdam utrecht hague | belgium: brussels antwerp ghent bruges | switzerland: zurich geneva basel bern | sweden:
stockholm gothenburg malmo | norway: oslo bergen | denmark: copenhagen | finland: helsinki | poland: warsaw krakow
gdansk | hungary: budapest | brazil: rio brasilia paulo | argentina: buenos | mexico: cancun oaxaca | israel:
jerusalem haifa | nigeria: lagos abuja | kenya: nairobi | indonesia: jakarta java bali sumatra | thailand: bangkok |
vietnam: hanoi saigon | korea: seoul busan | pakistan: karachi lahore | iran: tehran | iraq: baghdad | ukraine: kyiv
kiev odessa
"""
_NICKNAMES = """
william will bill billy willie liam | robert rob bob bobby robbie | richard rick dick ricky rich | james jim jimmy jamie
| john johnny jack jon | joseph joe joey | thomas tom tommy | charles charlie chuck | edward ed eddie ted teddy ned
| michael mike mick micky | david dave davy | daniel dan danny | matthew matt | christopher chris | anthony tony
| andrew andy drew | steven stephen steve | kenneth ken kenny | ronald ron ronnie | timothy tim timmy
| benjamin ben benny | samuel sam sammy samantha | alexander alex alexandra sandy | nicholas nick nicky nicolas
| gregory greg | jeffrey jeff | lawrence laurence larry | raymond ray | peter pete | patrick pat paddy patricia
| francis frank frances fran | frederick fred freddie | henry harry hank | george georgie | leonard len lenny
| elizabeth liz beth betty eliza lizzie | katherine catherine kate katie kathy cathy | margaret maggie meg peggy
| mary molly polly | jennifer jen jenny | susan sue susie | rebecca becky | deborah debbie | jessica jess jessie
| victoria vicky | anne ann annie anna | abraham abe | theodore theo | donald don donny | philip phil phillip
| eugene gene | albert al bert | arthur art | walter walt | zachary zach | joshua josh | jonathan nathan
| isabella isabel bella | vincent vince | maximilian max | jacob jake
"""


def _groups(table: str, first: int) -> dict[str, set[int]]:
    groups: dict[str, set[int]] = {}
    for number, entry in enumerate(table.split("|"), first):
        for name in entry.split():
            groups.setdefault(name, set()).add(number)
    return groups


PLACES = _groups(_PLACES, 0)
NICKNAMES = _groups(_NICKNAMES, 1000)
COUNTRIES: dict[str, set[int]] = {}
"""The groups in `PLACES` of the countries that a city lies in: a city supports its country, never the reverse."""
for _entry in _CITIES.split("|"):
    _country, _, _cities = _entry.partition(":")
    for _city in _cities.split():
        COUNTRIES.setdefault(_city, set()).update(PLACES[_country.strip()])

EXPANSIONS = {
    "us": "united states", "usa": "united states america", "uk": "united kingdom", "eu": "european union",
    "un": "united nations", "nyc": "new york city", "la": "los angeles", "dc": "washington", "ww2": "world war",
    "wwii": "world war", "wwi": "world war", "ww1": "world war", "uae": "united arab emirates", "ussr": "soviet union",
    "tv": "television", "ai": "artificial intelligence", "phd": "doctorate", "ceo": "chief executive",
    "gop": "republican", "mps": "members parliament", "mp": "member parliament", "dna": "deoxyribonucleic",
    "ad": "", "bc": "", "bce": "", "ce": "", "am": "", "pm": "", "ok": "", "faq": "", "ii": "", "vs": "", "tldr": "",
    "qa": "", "id": "identity",
}  # fmt: skip
"""Acronyms and what they abbreviate; an empty text means that the acronym needs no support."""

TOLERATED = lex.words(
    """i earth internet web god lord bible english latin dr mr mrs ms jr sr st sun moon european western eastern
    northern southern westerner yes no true false ok okay ad bc ce bce i'm north south east west anno domini etc vs
    christmas easter renaissance biblical celsius fahrenheit wikipedia roman q a faq b c d e"""
)
"""Words with a capital that an honest rephrasing may bring along."""

DEMONYM_ENDINGS = ("ians", "ian", "eans", "ean", "ans", "an", "ese", "ish", "ites", "ite", "ers", "er", "ic",
                   "ist", "ists", "ism", "i", "is", "ns", "n", "s")  # fmt: skip
